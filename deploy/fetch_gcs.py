"""Copy a model from Google Cloud Storage: ``fetch_gcs.py gs://bucket/folder /tmp/model``.

Signs in as the machine's service account, or asks without a key where there is no metadata server (public buckets).
Each file is checked against the size and MD5 that the bucket states; one that is there already is not fetched again.
STORAGE_EMULATOR_HOST and GCE_METADATA_HOST mean what they mean to Google's own tools.
"""

import base64
import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

NUM_THREADS = 8
CHUNK_BYTES = 1 << 20


class FetchError(Exception):
    """The model cannot be copied; trying again will not help."""


class BrokenCopyError(Exception):
    """What arrived is not what the bucket says it holds."""


_again = retry(
    retry=retry_if_exception_type((httpx.TransportError, httpx.HTTPStatusError, BrokenCopyError)),
    stop=stop_after_attempt(5),
    wait=wait_exponential_jitter(initial=0.5, max=10),
    reraise=True,
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    name: str
    path: PurePosixPath
    """Below the folder that is copied."""
    num_bytes: int
    md5: bytes | None
    """None for objects that were composed of parts."""


class Bucket:
    def __init__(self, name: str, client: httpx.Client) -> None:
        self._client = client
        host = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com")
        self._url = f"{host.rstrip('/')}/storage/v1/b/{quote(name, safe='')}/o"

    def files(self, folder: str) -> Iterator[StoredFile]:
        """All files below ``folder``, in its sub-folders too."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        page_token = None
        while True:
            page = self._page(prefix, page_token)
            for item in page.get("items", ()):
                if not item["name"].endswith("/"):  # what the console calls a folder is an empty object
                    yield _stored_file(item, prefix)
            page_token = page.get("nextPageToken")
            if page_token is None:
                return

    @_again
    def _page(self, prefix: str, page_token: str | None) -> dict[str, list[dict[str, str]]]:
        query = {"prefix": prefix, "fields": "items(name,size,md5Hash),nextPageToken"}
        if page_token is not None:
            query["pageToken"] = page_token
        response = self._client.get(self._url, params=query, headers=_authorization(self._client))
        _check(response)
        page: dict[str, list[dict[str, str]]] = response.json()
        return page

    @_again
    def fetch(self, file: StoredFile, target: Path) -> None:
        if _is_whole(file, target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        url = f"{self._url}/{quote(file.name, safe='')}"
        with self._client.stream("GET", url, params={"alt": "media"}, headers=_authorization(self._client)) as response:
            _check(response)
            with partial.open("wb") as output:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    output.write(chunk)
        if not _is_whole(file, partial):
            raise BrokenCopyError(f"{file.name} did not arrive as it is stored")
        partial.replace(target)


def fetch(uri: str, folder: Path) -> int:
    """Returns how many files were copied."""
    bucket_name, _, prefix = uri.removeprefix("gs://").partition("/")
    with httpx.Client(timeout=60.0) as client, ThreadPoolExecutor(NUM_THREADS) as threads:
        bucket = Bucket(bucket_name, client)
        files = list(bucket.files(prefix))
        if not files:
            raise FetchError(f"{uri} holds no files")
        for _ in threads.map(lambda file: bucket.fetch(file, folder / file.path), files):
            pass
    return len(files)


def _stored_file(item: dict[str, str], prefix: str) -> StoredFile:
    path = PurePosixPath(item["name"][len(prefix) :])
    if path.is_absolute() or ".." in path.parts:
        raise FetchError(f"'{item['name']}' leads out of the folder")
    md5 = base64.b64decode(item["md5Hash"]) if "md5Hash" in item else None
    return StoredFile(item["name"], path, int(item["size"]), md5)


def _authorization(client: httpx.Client) -> dict[str, str]:
    if "STORAGE_EMULATOR_HOST" in os.environ and "GCE_METADATA_HOST" not in os.environ:
        return {}
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    try:
        response = client.get(
            f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token",
            headers={"Metadata-Flavor": "Google"},
            timeout=5.0,
        )
        response.raise_for_status()
    except httpx.HTTPError:
        return {}
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


def _check(response: httpx.Response) -> None:
    """Raises FetchError for an answer that will not change, HTTPStatusError for one that may."""
    status = response.status_code
    if 400 <= status < 500 and status not in (408, 429):
        raise FetchError(f"Google Cloud Storage answers {status} for {response.url.copy_with(query=None)}")
    response.raise_for_status()


def _is_whole(file: StoredFile, path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    if file.md5 is None:
        return True
    with path.open("rb") as stored:
        return hashlib.file_digest(stored, lambda: hashlib.md5(usedforsecurity=False)).digest() == file.md5


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not arguments[0].startswith("gs://"):
        print("usage: fetch_gcs.py gs://BUCKET/FOLDER TARGET", file=sys.stderr)
        return 2
    uri, folder = arguments
    print(f"Copying {uri} to {folder}", flush=True)
    try:
        num_files = fetch(uri, Path(folder))
    except (FetchError, BrokenCopyError, httpx.HTTPError) as error:
        print(f"{uri} cannot be copied: {error}", file=sys.stderr)
        return 1
    print(f"Copied {num_files} files", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
