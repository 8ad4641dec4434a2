"""The contract of a stage: a frozen model whose fields say what to do, and one `run` that does it.

Its file under `stages/` holds the fields and is read without torch; its work stands in a module of `actions/`, glue
that reads the input artifacts, calls algorithms, writes files into `context.folder` and returns facts. The pipeline
seals the folder, measures time and memory, and decides from the class variables which orders are legal.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from compress.artifact import Artifact
from compress.detector import Detector
from compress.kind import Kind


@dataclass(frozen=True)
class StageContext:
    """Everything a running stage may touch.

    Attributes:
        name: unique name of this stage in the recipe.
        folder: empty folder to write the artifact into; sealed by rename after `run` returns.
        scratch: folder of this stage and key that survives a kill; checkpoints go here.
        inputs: name -> artifact. `source` is the primary input; the others have the names that
            `Stage.references` gave. For `report`: every earlier artifact by stage name.
        detector: the plug-in, constructed.
        seed: seed of this stage.
        device: where torch computes: 'auto', 'cpu' or 'cuda'.
        record: the whole recipe as JSON, for the report; not part of any key.
        forecast: what the plan should leave, for the report; not part of any key either.
    """

    name: str
    folder: Path
    scratch: Path
    inputs: Mapping[str, Artifact]
    detector: Detector
    seed: int
    device: str
    record: Mapping[str, Any]
    forecast: Mapping[str, Any] | None = None

    @property
    def source(self) -> Artifact:
        """Return the primary input artifact."""
        return self.inputs["source"]


class Stage(BaseModel):
    """Base of all stages: the fields every entry of `stages:` may have.

    Subclasses declare `stage: Literal["..."]` and their own fields, set the class variables
    and implement `run`. Fields that do not change the result are named in `COSMETIC`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    NEEDS: ClassVar[tuple[Kind, ...]] = ()  # kinds accepted as source; the latest of any of them
    MAKES: ClassVar[Kind]
    ACTION: ClassVar[str]  # module whose `run(stage, context)` does the work; imported when the stage runs
    NOT_AFTER: ClassVar[tuple[str, ...]] = ()  # stage names that may not be in the source's lineage
    SPLITS: ClassVar[tuple[str, ...]] = ()  # data splits always read (a `split` field is added)
    LIBRARIES: ClassVar[tuple[str, ...]] = ()  # distributions whose version matters for the result
    PRELOAD: ClassVar[tuple[str, ...]] = ()  # slow modules, imported once for all children
    COSMETIC: ClassVar[frozenset[str]] = frozenset()  # fields that do not enter the cache key; 'block.field' of a block
    MACHINE_BOUND: ClassVar[bool] = False  # the machine enters the cache key (latency)
    TRAINS: ClassVar[bool] = False  # runs on every rank under `accelerate launch`
    CODE_VERSION: ClassVar[int] = 1  # raise when the result changes for the same fields

    stage: str
    name: str | None = Field(None, description="Unique name; the stage's own name if left out.")
    from_: str | None = Field(
        None,
        alias="from",
        description="Name of the stage whose artifact is the input; default: the latest fitting one.",
    )

    @property
    def label(self) -> str:
        """Return the name by which other stages refer to this one."""
        return self.name or self.stage

    def references(self) -> tuple[str, ...]:
        """Return names of further artifacts that this stage reads (teacher, models)."""
        return ()

    def splits(self) -> tuple[str, ...]:
        """Return the data splits whose digests enter the cache key."""
        split = getattr(self, "split", None)
        return tuple(dict.fromkeys([*self.SPLITS, *([split] if split else [])]))

    def is_timed(self) -> bool:
        """Return whether the result depends on how fast something runs here: then nothing else should."""
        return self.MACHINE_BOUND

    def key_fields(self) -> dict[str, Any]:
        """Return the fields as JSON-able data, for the cache key; those in COSMETIC are taken out afterwards."""
        return self.model_dump(mode="json", by_alias=True)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work and return JSON-able facts for manifest and report: call `run` of the module `ACTION`.

        Raises:
            StageError: the work cannot be done or a check failed.
        """
        run: Callable[[Stage, StageContext], dict[str, Any]] = importlib.import_module(self.ACTION).run
        return run(self, context)
