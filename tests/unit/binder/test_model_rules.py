"""Whose models are served: found by a reviewer who had `uri: /root` listed to a tenant, and code of one run for all."""

from pathlib import Path

import pytest

from berth.embedded.triton import inherited
from berth.errors import InvalidInput
from berth.models.artefact import Artefact
from berth.models.artefact_file import Opened, open_artefact
from binder.domain.work import Assignment, Member, Model, Work
from binder.executors.model_rules import ModelRules
from binder.executors.triton_copies import content_of
from binder.settings import BinderSettings
from tests.unit.binder.builders import make_attempt

KEY = "k" * 32


def read(path: Path) -> Opened:
    """Fake: a model by its ending, without its content being read."""
    kind = "triton" if path.is_dir() else "onnx"
    return Opened(Artefact("m", kind, "0" * 64, 1, (), ()), path)


def asked(uri: Path | str, tenant: str) -> Assignment:
    return Assignment(make_attempt(tenant=tenant), Work((Member(0, "n1"),), model=Model(str(uri), "m")))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for tenant in ("a", "b"):
        (tmp_path / tenant / "folder").mkdir(parents=True)
        (tmp_path / tenant / "m.onnx").write_text("x")
    return tmp_path


def test_a_tenant_gets_its_own_models_and_no_other(models: Path) -> None:
    rules = ModelRules(read, (f"{models}/{{tenant}}",))
    assert content_of(asked(models / "a" / "m.onnx", "a"), rules).content == models / "a" / "m.onnx"
    (models / "b" / "stolen.onnx").symlink_to(models / "a" / "m.onnx")
    for uri in ("a/m.onnx", "b/../a/m.onnx", "b/stolen.onnx", "a/absent", "", "b"):
        with pytest.raises(InvalidInput, match=r"model.uri: .*outside .*tenant 'b'.*BERTH_MODEL_FOLDERS.*put it there"):
            content_of(asked(models / uri, "b"), rules)
    for tenant in ("", "..", "a/../a", "b/../a"):
        with pytest.raises(InvalidInput, match="outside"):
            content_of(asked(models / "a" / "m.onnx", tenant), rules)


def test_a_link_in_a_folder_leads_nowhere(models: Path) -> None:
    (models / "b" / "folder" / "config.pbtxt").symlink_to(models / "a" / "m.onnx")
    with pytest.raises(InvalidInput, match="a link: copy what it names"):
        content_of(asked(models / "b" / "folder", "b"), ModelRules(open_artefact, (str(models / "b"),)))


def test_no_folders_no_models(models: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no model is served: the operator names .* BERTH_MODEL_FOLDERS"):
        content_of(asked(models / "a" / "m.onnx", "a"), ModelRules(read, ()))
    assert content_of(asked(models / "a" / "m.onnx", "b"), ModelRules(read)).artefact.format == "onnx"


def test_code_only_where_it_is_allowed(models: Path) -> None:
    with pytest.raises(InvalidInput, match=r"can bring code.*submit an ONNX model.*BERTH_MODEL_CODE=true"):
        content_of(asked(models / "a" / "folder", "a"), ModelRules(read, code=False))
    assert content_of(asked(models / "a" / "folder", "a"), ModelRules(read)).artefact.format == "triton"


def test_what_is_allowed_where_nothing_is_said() -> None:
    settings = BinderSettings(auth_key=None)
    assert (settings.folders_of_models, settings.takes_code) == (None, True)
    keyed = BinderSettings.model_validate({"auth_key": KEY})
    assert (keyed.folders_of_models, keyed.takes_code) == (frozenset(), False)
    given = BinderSettings.model_validate({"auth_key": KEY, "model_folders": "/a, /b/{tenant}", "model_code": "true"})
    assert (given.folders_of_models, given.takes_code) == ({"/a", "/b/{tenant}"}, True)
    with pytest.raises(ValueError, match="BERTH_MODEL_FOLDERS: 'x': write absolute paths"):
        BinderSettings.model_validate({"model_folders": "x"})


def test_the_names_in_a_folder_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "private-of-a.txt").write_text("x")
    with pytest.raises(InvalidInput) as error:
        open_artefact(tmp_path)
    assert "private" not in str(error.value)


def test_a_server_that_runs_tenants_code_gets_no_keys() -> None:
    kept = [name for name in ("BERTH_AUTH_KEY", "BERTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "PATH", "CUDA_VISIBLE_DEVICES")
            if inherited(name)]  # fmt: skip
    assert kept == ["PATH", "CUDA_VISIBLE_DEVICES"]
