"""The durable store: a directory of images and its journal."""

from ._archive import Archive
from ._batch import Batch
from ._choices import Choice, choice_lines, choices, choose, parse_choices, pick_file
from ._control import Tuning, last_budget, note_steered, steered, tell_run, tunings
from ._files import (
    disk_error,
    is_temporary,
    make_directory,
    make_private,
    place,
    sweep,
    sync_directory,
    wrong_kind,
)
from ._files import read as read_file
from ._files import replace as replace_file
from ._following import Changed, Changes, Follower
from ._journal import HIDDEN, JOURNAL, RunCost, Spent, check_types
from ._keys import (
    DEFAULT_TEMPLATE,
    both_digests,
    check_template,
    digest_with_id,
    digests_of_texts,
    folded,
    key_of,
    laid_out,
    safe_name,
)
from ._match import BatchInput
from ._merge import Merged, merge
from ._plan import (
    FINAL,
    BegunCall,
    Plan,
    PlanRequest,
    Policy,
    kept_request,
    note_failure,
    request_to_json,
)
from ._redos import Redo, move_redo, open_redos, queue_redo
from ._reports import (
    Status,
    export,
    further_in,
    hash_of_text,
    open_in_jobs,
    pinned,
    reading,
    standing,
    status,
    verify,
    write_results,
)
from ._results import flat_row, results
from ._store import PendingImage, Store, run_to_end

__all__ = [
    "DEFAULT_TEMPLATE",
    "FINAL",
    "HIDDEN",
    "JOURNAL",
    "Archive",
    "Batch",
    "BatchInput",
    "BegunCall",
    "Changed",
    "Changes",
    "Choice",
    "Follower",
    "Merged",
    "PendingImage",
    "Plan",
    "PlanRequest",
    "Policy",
    "Redo",
    "RunCost",
    "Spent",
    "Status",
    "Store",
    "Tuning",
    "both_digests",
    "check_template",
    "check_types",
    "choice_lines",
    "choices",
    "choose",
    "digest_with_id",
    "digests_of_texts",
    "disk_error",
    "export",
    "flat_row",
    "folded",
    "further_in",
    "hash_of_text",
    "is_temporary",
    "kept_request",
    "key_of",
    "laid_out",
    "last_budget",
    "make_directory",
    "make_private",
    "merge",
    "move_redo",
    "note_failure",
    "note_steered",
    "open_in_jobs",
    "open_redos",
    "parse_choices",
    "pick_file",
    "pinned",
    "place",
    "queue_redo",
    "read_file",
    "reading",
    "replace_file",
    "request_to_json",
    "results",
    "run_to_end",
    "safe_name",
    "standing",
    "status",
    "steered",
    "sweep",
    "sync_directory",
    "tell_run",
    "tunings",
    "verify",
    "write_results",
    "wrong_kind",
]
