"""The durable store: a directory of images and its journal."""

from ._archive import Archive
from ._batch import Batch
from ._choices import Choice, choice_lines, choices, choose, parse_choices, pick_file
from ._files import (
    disk_error,
    is_temporary,
    make_directory,
    make_private,
    sync_directory,
    wrong_kind,
)
from ._files import read as read_file
from ._files import replace as replace_file
from ._following import Changed, Changes, Follower
from ._journal import HIDDEN, JOURNAL, RunCost, Spent, check_types
from ._keys import DEFAULT_TEMPLATE, check_template, content_digest, digests_of_texts, key_of
from ._plan import FINAL, BegunCall, Plan, kept_request, note_failure
from ._reports import Status, export, made_in, open_in_jobs, reading, status, verify
from ._store import PendingImage, Store, run_to_end

__all__ = [
    "DEFAULT_TEMPLATE",
    "FINAL",
    "HIDDEN",
    "JOURNAL",
    "Archive",
    "Batch",
    "BegunCall",
    "Changed",
    "Changes",
    "Choice",
    "Follower",
    "PendingImage",
    "Plan",
    "RunCost",
    "Spent",
    "Status",
    "Store",
    "check_template",
    "check_types",
    "choice_lines",
    "choices",
    "choose",
    "content_digest",
    "digests_of_texts",
    "disk_error",
    "export",
    "is_temporary",
    "kept_request",
    "key_of",
    "made_in",
    "make_directory",
    "make_private",
    "note_failure",
    "open_in_jobs",
    "parse_choices",
    "pick_file",
    "read_file",
    "reading",
    "replace_file",
    "run_to_end",
    "status",
    "sync_directory",
    "verify",
    "wrong_kind",
]
