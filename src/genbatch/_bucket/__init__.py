"""The object store: a bucket that any number of processes and machines fill together."""

from ._batch import BucketKeys, Divided, ObjectBatch
from ._download import download_bucket, is_download_of
from ._objects import Objects, StoredImage
from ._reports import bucket_keys, bucket_problems, bucket_rows, bucket_status
from ._store import BucketPath, ObjectStore, bucket_path, local_folder

__all__ = [
    "BucketKeys",
    "BucketPath",
    "Divided",
    "ObjectBatch",
    "ObjectStore",
    "Objects",
    "StoredImage",
    "bucket_keys",
    "bucket_path",
    "bucket_problems",
    "bucket_rows",
    "bucket_status",
    "download_bucket",
    "is_download_of",
    "local_folder",
]
