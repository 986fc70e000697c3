"""Which models a tenant may have served: by the folder they lie in, and by whether they bring code of their own."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from berth.errors import InvalidInput
from berth.models.artefact_file import Opened, check_no_links

__all__ = ["ModelRules"]

TENANT = "{tenant}"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_CODE = "triton"


@dataclass(frozen=True, slots=True)
class ModelRules:
    """`folders`: a model lies below one of them; `{tenant}` in one stands for the job's tenant. None: it may lie
    anywhere. `code`: whether what brings code of its own is served.
    """

    read: Callable[[Path], Opened]
    folders: Collection[str] | None = None
    code: bool = True

    def open(self, path: Path, tenant: str) -> Opened:
        """What lies at `path`, if `tenant` may have it served. Blocks. Raises InvalidInput."""
        if self.folders is not None:
            # Whether anything is there is not told of a path outside.
            path = self._below(path, tenant)
            check_no_links(path)
        opened = self.read(path)
        if not self.code and opened.artefact.format == _CODE:
            words = (
                "a model folder of Triton can bring code, which would run beside every tenant's models: submit an ONNX "
                "model or an artefact of jax.export, or let the operator set BERTH_MODEL_CODE=true"
            )
            raise InvalidInput.of("model.uri", path, words)
        return opened

    def _below(self, path: Path, tenant: str) -> Path:
        """With every link followed."""
        if not self.folders:
            words = "no model is served: the operator names the folders of models in BERTH_MODEL_FOLDERS"
            raise InvalidInput.of("model.uri", path, words)
        try:
            found = path.resolve()
        except (OSError, RuntimeError) as error:
            raise InvalidInput.of("model.uri", path, "links that turn in a circle: name the model itself") from error
        for folder in self.folders:
            if TENANT in folder and _NAME.fullmatch(tenant) is None:
                continue
            root = Path(folder.replace(TENANT, tenant)).resolve()
            if found != root and found.is_relative_to(root):
                return found
        words = f"outside the folders of models of tenant {tenant!r} (the binder's BERTH_MODEL_FOLDERS): put it there"
        raise InvalidInput.of("model.uri", path, words)
