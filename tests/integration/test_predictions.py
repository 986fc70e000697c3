"""An analysis in, predictions for the fleet out, a measurement corrects them: profile-store and the command line."""

import asyncio
import json
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from berth.embedded.context import Context
from berth.grpc import connect
from berth.v1 import profiles_pb2 as pb
from berth.v1.profiles_pb2_grpc import ProfileServiceStub
from placement_engine.adapters.profiles import Profiles
from placement_engine.adapters.translate import profile_from
from placement_engine.domain.estimates import Estimator
from placement_engine.domain.outlook import too_slow
from profile_store.bootstrap import build
from tests.integration.test_profile_store import records_of, settings_for
from tests.unit.berth.cli.conftest import run_cli

ANALYSIS = {"operations": 4e12, "bytes_moved": 8e9, "memory_bytes": 5_000_000_000, "by_precision": {"bf16": 4e12}}


async def test_from_an_analysis_to_the_engine_and_back_from_a_measurement(
    database_dsn: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    workload = f"transformer-{time.time_ns()}"
    (tmp_path / "analysis.json").write_text(json.dumps({"name": "t", "analysis": ANALYSIS}))
    context_file = tmp_path / "context.json"
    async with build(settings_for(database_dsn, kafka_bootstrap, learn=False)) as app:
        assert app.grpc is not None
        address = await app.grpc.start()
        names = ("placement_engine", "telemetry_ingest", "profile_store", "binder")
        Context(dict.fromkeys(names, address)).save(context_file)
        tasks = [asyncio.ensure_future(start()) for start in app.tasks.values()]
        channel = connect(address, None)
        stub = ProfileServiceStub(channel)

        async def berth(*arguments: str) -> str:
            outcome = await run_cli(("profiles", *arguments), context_file=context_file, folder=tmp_path)
            assert outcome.code == 0, outcome.err
            return outcome.out

        try:
            # 1. An analysis in: predictions of the whole catalogue out.
            out = json.loads(await berth("predict", workload, "--analysis", "analysis.json", "--keep", "-o", "json"))
            before = {one["profile"]["accelerator"]: one for one in out["predictions"]}
            assert {"H100-SXM", "MI300X", "Gaudi3", "TPU-v5p", "L4"} <= before.keys()
            # 2. The engine hears them, with the latency that a target must hold for.
            told = await records_of(kafka_bootstrap, workload, len(before))
            heard = Profiles()
            estimator = Estimator()
            for record in told:
                speaks = heard.hear(record)
                assert speaks is not None
                estimator.put_profile(profile_from(speaks))
            estimate = estimator.estimate(workload, "L4", 1)
            assert estimate.latency_seconds is not None
            assert estimate.latest_seconds is not None
            between = (estimate.latency_seconds + estimate.latest_seconds) / 2
            fast = estimator.estimate(workload, "B200", 1)
            assert (fast.latest_seconds or 9) < between
            missed, _ = too_slow({(1, "L4"): estimate, (1, "B200"): fast}, [], between)
            assert missed == {(1, "L4")}
            # 3. One measurement: all others are made anew, without being asked again.
            speed = 0.25 * before["L4"]["profile"]["throughput"]
            await stub.PutProfiles(
                pb.PutProfilesRequest(
                    profiles=[
                        pb.Profile(
                            workload=workload, accelerator="L4", devices=1, throughput=speed, precision="bf16",
                            throughput_unit="queries/s", provenance=pb.PROVENANCE_MEASURED, source="bench",
                        )
                    ]
                )
            )  # fmt: skip
            again = {}
            async with asyncio.timeout(20):
                while not again or again["MI300X"].provenance != pb.PROVENANCE_TRANSFERRED:
                    await asyncio.sleep(0.1)
                    page = await stub.ListProfiles(pb.ListProfilesRequest(workload=workload, page_size=1000))
                    again = {one.accelerator: one for one in page.profiles}
            assert again["L4"].provenance == pb.PROVENANCE_MEASURED
            old = before["MI300X"]["profile"]["throughput"]
            assert again["MI300X"].throughput == pytest.approx(0.25 * old, rel=1e-6)
            # 4. The picture, and what it says in text.
            text = await berth("roofline", workload, "--accelerator", "L4", "--accelerator", "MI300X", "--out", "r.svg")
            assert "measured" in text
            root = ET.parse(tmp_path / "r.svg").getroot()
            words = "".join(root.itertext())
            assert "MI300X" in words
            assert "L4" in words
            # 5. A benchmark of this machine is stored as measured.
            await berth("bench", "matmul", "--size", "64", "--time-limit", "0.3", "--warmup", "1")
            page = await stub.ListProfiles(pb.ListProfilesRequest(workload="berth-matmul-fp32"))
            (bench,) = page.profiles
            assert (bench.operations, bench.concurrency, bench.provenance) == (2.0 * 64**3, 1, pb.PROVENANCE_MEASURED)
            assert bench.latency_p50_seconds <= bench.latency_p99_seconds
            assert bench.samples >= 5
            refused = await run_cli(
                ("profiles", "predict", workload, "--analysis", "none.json"), context_file=context_file, folder=tmp_path
            )
            assert refused.code == 2
        finally:
            await channel.close()
            await app.grpc.stop(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
