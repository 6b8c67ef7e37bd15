"""The durable store: a directory of images and its journal."""

from ._archive import Archive
from ._batch import Batch
from ._choices import Choice, choice_lines, choices, choose, parse_choices, pick_file
from ._control import Tuning, note_steered, steered, tell_run, tunings
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
from ._plan import FINAL, BegunCall, Plan, kept_request, note_failure
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
)
from ._results import Shape, flat_row, results, shaped, widened
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
    "RunCost",
    "Shape",
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
    "make_directory",
    "make_private",
    "merge",
    "note_failure",
    "note_steered",
    "open_in_jobs",
    "parse_choices",
    "pick_file",
    "pinned",
    "place",
    "read_file",
    "reading",
    "replace_file",
    "results",
    "run_to_end",
    "safe_name",
    "shaped",
    "standing",
    "status",
    "steered",
    "sweep",
    "sync_directory",
    "tell_run",
    "tunings",
    "verify",
    "widened",
    "wrong_kind",
]
