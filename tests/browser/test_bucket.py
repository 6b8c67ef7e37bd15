"""An image of a bucket, opened by its URL."""

from __future__ import annotations

from datetime import timedelta

import obstore
import pytest
from obstore.store import S3Store

from genbatch import Image
from genbatch._bucket._objects import Objects
from support.chromium import Browser
from support.folders import picture
from support.integrations import needs_packages
from support.object_servers import moto
from support.stores import KEY

pytestmark = [pytest.mark.browser, needs_packages]


def test_an_image_of_a_bucket_opens_by_its_url(
    live: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        saved = Objects("s3://bucket/foxes").save(KEY, Image(picture(1), "image/png"))
        bucket = S3Store("bucket", client_options={"allow_http": True})
        url = obstore.sign(bucket, "GET", f"foxes/{saved.file}", timedelta(minutes=1))
        assert url.startswith(server.endpoint)
        live.driver.get(url)
        shown = live.driver.execute_script(
            "const it = document.images[0];"
            "return [document.contentType, document.images.length, it.complete, it.naturalWidth]"
        )
    logged = [each["message"] for each in live.driver.get_log("browser")]
    assert [each for each in logged if "/favicon.ico" not in each] == []
    assert shown == ["image/png", 1, True, 48]
