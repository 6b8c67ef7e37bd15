"""The object store on servers that are not ours; GENBATCH_TEST_INTEGRATIONS is 1 for these."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import anyio
import pytest

from genbatch import ObjectStore, StoreError
from genbatch._bucket._objects import Objects
from support.integrations import needs_packages
from support.servers import free_port
from support.stores import KEY, image

pytestmark = [needs_packages, pytest.mark.slow]
