"""Label tables: the layouts of PHOENIX14T, How2Sign and OpenASL, and tables that are none."""

import contextlib
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uni_sign.data.corpora import load_corpus, read_split
from uni_sign.data.tables import read_table
from uni_sign.errors import InputError

PHOENIX = (
    "name|video|start|end|speaker|orth|translation\n"
    "01April_2010_Thursday_heute-6694|01April_2010_Thursday_heute-6694/1/*.png|-1|-1|Signer04|JETZT WETTER|"
    'und nun das "wetter .\n'
    "30September_2009_Wednesday-4038|30September_2009_Wednesday-4038/1/*.png|-1|-1|Signer01|ORT REGEN DURCH|mal sehen\n"
)
HOW2SIGN = (
    "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\r\n"
    "--7E2sU6zP4\t--7E2sU6zP4-5-rgb_front\t--7E2sU6zP4_10\t--7E2sU6zP4_10-5-rgb_front\t129.06\t142.48\t"
    'And I call them "decorative" elements, because.\r\n'
)
OPENASL = (
    "vid\tyid\tstart\tend\traw-text\ttokenized-text\tsplit\n"
    "a-1\ta\t00:00:01.0\t00:00:02.0\tHello there.\thello there .\ttrain\n"
    "a-2\ta\t00:00:02.0\t00:00:03.0\tGood bye.\tgood bye .\tvalid\n"
    "b-1\tb\t00:00:02.0\t00:00:03.0\tThanks.\tthanks .\ttest\n"
)


def corpus_of(root: Path, name: str, files: dict[str, str], clips: list[str]) -> None:
    """An imitation of a data set: its own label files, and pose files, which are not read here."""
    labels, poses = root / "data" / name, root / "dataset" / name / "pose_format"
    for folder in (labels, poses):
        folder.mkdir(parents=True)
    for file, content in files.items():
        (labels / file).write_bytes(content.encode())
    for clip in clips:
        (poses / f"{clip}.pkl").write_bytes(b"")


def test_phoenix(tmp_path: Path) -> None:
    files = {f"PHOENIX-2014-T.{split}.corpus.csv": PHOENIX for split in ("train", "dev", "test")}
    corpus_of(tmp_path, "PHOENIX14T", files, ["01April_2010_Thursday_heute-6694"])
    corpus = load_corpus("PHOENIX14T", tmp_path)
    for task, target in (("SLT", 'und nun das "wetter .'), ("CSLR", "JETZT WETTER")):
        split = read_split(corpus, task, "dev")
        [sample] = split.samples
        assert (sample.name, sample.target, sample.language) == (
            "01April_2010_Thursday_heute-6694",
            target,
            "German",
        )
        assert "30September_2009_Wednesday-4038: no pose file" in split.problems[0]


def test_how2sign(tmp_path: Path) -> None:
    files = {f"how2sign_realigned_{split}.csv": HOW2SIGN for split in ("train", "val", "test")}
    corpus_of(tmp_path, "How2Sign", files, ["--7E2sU6zP4_10-5-rgb_front"])
    [sample] = read_split(load_corpus("How2Sign", tmp_path), "SLT", "dev").samples
    assert sample.target == 'And I call them "decorative" elements, because.'
    assert sample.pose_path.name == "--7E2sU6zP4_10-5-rgb_front.pkl"


def test_openasl_holds_all_splits_in_one_file(tmp_path: Path) -> None:
    corpus_of(tmp_path, "OpenASL", {"openasl-v1.0.tsv": OPENASL}, ["a-1", "a-2", "b-1"])
    corpus = load_corpus("OpenASL", tmp_path)
    found = {split: [(s.name, s.target) for s in read_split(corpus, "SLT", split).samples] for split in corpus.labels}
    assert found == {
        "train": [("a-1", "Hello there.")],
        "dev": [("a-2", "Good bye.")],
        "test": [("b-1", "Thanks.")],
    }


def test_pickles_win_where_they_are(tmp_path: Path) -> None:
    corpus_of(tmp_path, "OpenASL", {"openasl-v1.0.tsv": OPENASL, "labels.dev": "no pickle"}, ["a-1"])
    corpus = load_corpus("OpenASL", tmp_path)
    assert corpus.labels["dev"].name == "labels.dev"
    assert corpus.labels["train"].name == "openasl-v1.0.tsv"


COLUMNS = {"name": "name", "text": "text"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "no column 'name'"),
        (b"name\n", "no column 'text'"),
        (b"name,text\na,b,c\n", "line 2 has 3 fields, the first line 2"),
        (b"name,text\na,b\na,c\n", "line 3 names clip 'a' once more"),
        (b"name,text\na,\xff\n", "not text in UTF-8"),
        (b"name,text\na,\0\n", "zero byte"),
        (b"name,text\na," + b"x" * (1 << 20 | 1) + b"\n", "line 2 cannot be read"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"labels\.csv.*{says}"):
        read_table(path, COLUMNS, "train")


@pytest.mark.parametrize("columns", [{"name": "a"}, {"name": "a", "text": "b", "nmae": "c"}, {"name": 1, "text": "b"}])
def test_a_corpus_file_must_name_the_columns(tmp_path: Path, columns: dict[str, str]) -> None:
    path = tmp_path / "mine.yaml"
    labels = "".join(f"  {split}: labels.tsv\n" for split in ("train", "dev", "test"))
    named = ", ".join(f"{field}: {column}" for field, column in columns.items())
    path.write_text(f"name: Mine\nlanguage: English\nlabels:\n{labels}pose_dir: poses\ncolumns: {{{named}}}\n")
    with pytest.raises(InputError, match=r"mine\.yaml.*columns"):
        load_corpus(str(path), tmp_path)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="\x85"))


@given(st.dictionaries(TEXT.map(str.strip).filter(bool), TEXT.map(str.strip), max_size=8), st.sampled_from(",;"))
def test_what_csv_writes_is_read(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, str], comma: str) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=comma)
    writer.writerows([("name", "text"), *rows.items()])
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    assert read_table(path, COLUMNS, "train") == {name: {"name": name, "text": text} for name, text in rows.items()}


@given(st.binary(max_size=200))
def test_anything_is_a_table_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"name,text\n" + content)
    with contextlib.suppress(InputError):
        assert all(entry["name"] == name for name, entry in read_table(path, COLUMNS, "train").items())
