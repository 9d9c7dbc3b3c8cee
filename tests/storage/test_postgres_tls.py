"""Postgres over TLS: what is wrong with it is told in a sentence of its own, with what to do."""

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from msgspec import Struct

from hes.errors import ConfigError, StorageUnavailable
from hes.storage import migrations
from hes.storage.postgres import PostgresDatabase, PostgresUrl, open_postgres, run_schema
from tests import postgres
from tests.faults.server import environment
from tests.storage.harness import Bench, FakeClock, new_policy, next_id
from tests.storage.tls import Authority, tls_to

HERE = "127.0.0.1"


class Files(Struct, frozen=True):
    """`right`, `elsewhere`, `expired`: certificate and key of a server; `folder` also holds `junk.pem`."""

    folder: Path
    ca: Path
    other_ca: Path
    right: tuple[Path, Path]
    elsewhere: tuple[Path, Path]
    expired: tuple[Path, Path]

    def query(self, template: str) -> str:
        certificate, key = self.right
        words = {"ca": self.ca, "other_ca": self.other_ca, "folder": self.folder, "certificate": certificate}
        return template.format(**words, key=key, other_key=self.elsewhere[1])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "junk.pem").write_text("junk")
    ca, other = Authority(folder, "ca"), Authority(folder, "other")
    servers = ca.server(HERE), ca.server("db.example"), ca.server(HERE, days=-1)
    return Files(folder, ca.file, other.file, *servers)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with postgres.database() as found:
        yield found


TRUSTING = "sslmode=verify-full&sslrootcert={ca}"
WRONG = [
    ("right", "sslmode=verify-full&sslrootcert={other_ca}", r"is not signed by the CA in sslrootcert=\S+/other.pem"),
    ("right", "sslmode=verify-ca&sslrootcert={other_ca}", r"Name the certificate of the CA that signed it"),
    ("elsewhere", TRUSTING, r"is not for '127.0.0.1'. Connect by the name that it is for"),
    ("expired", TRUSTING, r"has expired, or its CA's has. Have it renewed there"),
    ("right", "sslmode=verify-full", r"sslmode=verify-full needs to know who signed .* Add sslrootcert=FILE"),
    ("right", "sslmode=verify-full&sslrootcert=/no/ca.pem", r"sslrootcert=/no/ca.pem can't be read: No such file"),
    ("right", "sslmode=verify-full&sslrootcert={folder}", r"sslrootcert=\S+ can't be read: Is a directory"),
    ("right", "sslmode=verify-full&sslrootcert={folder}/junk.pem", r"junk.pem holds no certificate in PEM"),
    ("right", "sslmode=require&sslcert=/no/c.pem&sslkey={key}", r"sslcert=/no/c.pem can't be read: No such file"),
    ("right", "sslmode=require&sslcert={certificate}&sslkey=/no/k", r"sslkey=/no/k can't be read: No such file"),
    ("right", "sslmode=require&sslcert={certificate}", r"needs its key: add sslkey=FILE"),
    ("right", "sslmode=require&sslcert={certificate}&sslkey={other_key}", r"are no certificate and its key"),
    ("right", TRUSTING + "&sslcrl=/no/list", r"sslcrl=/no/list can't be read: No such file"),
    ("right", "sslmode=sometimes", r"sslmode parameter must be one of: disable"),
    ("right", "sslmode=require&nonsense=1", r'unrecognized configuration parameter "nonsense"'),
    (None, "sslmode=require", r"sslmode=require, but the server has no TLS. Turn it on there"),
]


@pytest.mark.parametrize(("server", "query", "sentence"), WRONG, ids=[sentence for *_, sentence in WRONG])
async def test_what_is_wrong_is_told_at_the_start(
    files: Files, url: str, server: str | None, query: str, sentence: str
) -> None:
    """`hes db` and `hes serve` alike; nobody waits for what no waiting mends."""
    async with tls_to(url, getattr(files, server) if server else None) as over_tls:
        wrong = PostgresUrl(f"{over_tls}?{files.query(query)}")
        with pytest.raises(ConfigError, match=f"^HES_DATABASE_URL: .*{sentence}"):
            await run_schema(wrong, migrations.current)
        with pytest.raises(ConfigError, match=f"^HES_DATABASE_URL: .*{sentence}"):
            async with open_postgres(wrong, new_policy(), next_id):
                pass


async def test_with_the_right_files_all_is_as_without(files: Files, url: str, clock: FakeClock) -> None:
    async with (
        tls_to(url, files.right) as over_tls,
        open_postgres(PostgresUrl(f"{over_tls}?{files.query(TRUSTING)}"), new_policy(), next_id, clock) as storage,
    ):
        bench = Bench(storage, clock)
        assert (await bench.status(await bench.leased()))[0] == "sending"


async def test_a_file_that_goes_while_hes_runs_is_an_outage_and_no_crash(
    files: Files, url: str, tmp_path: Path
) -> None:
    root = tmp_path / "ca.pem"
    root.write_bytes(files.ca.read_bytes())
    async with (
        tls_to(url, files.right) as over_tls,
        PostgresDatabase(PostgresUrl(f"{over_tls}?sslmode=verify-full&sslrootcert={root}")) as database,
    ):
        await database.read(lambda *_: None)
        await database._engine.dispose()
        root.unlink()
        with pytest.raises(StorageUnavailable, match=f"sslrootcert={root} can't be read"):
            await database.read(lambda *_: None)
        root.write_bytes(files.ca.read_bytes())
        await database.read(lambda *_: None)


@pytest.mark.parametrize("command", ["serve", "db upgrade"])
async def test_a_person_reads_one_sentence(files: Files, url: str, tmp_path: Path, command: str) -> None:
    async with tls_to(url, files.right) as over_tls:
        env = environment(
            database_url=f"{over_tls}?{files.query('sslmode=verify-full&sslrootcert={other_ca}')}",
            providers="outbox://",
            log_format="json",
            port=0,
        )
        run = [sys.executable, "-m", "hes", *command.split()]
        ended = await anyio.run_process(run, check=False, env=env, cwd=tmp_path)
    told = [line for line in ended.stderr.decode().splitlines() if not line.startswith("{")]
    assert (ended.returncode, len(told)) == (2, 1), told
    assert re.match(r"hes: HES_DATABASE_URL: the server's certificate is not signed by the CA in sslrootcert=", told[0])
