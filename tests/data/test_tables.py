"""Labels as PHOENIX14T, How2Sign and OpenASL publish them, in small imitations; and tables that nobody should."""

from __future__ import annotations

import csv
import gzip
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from uni_sign.data.corpora import SPLITS, load_corpus
from uni_sign.data.safe_pickle import load_pickle
from uni_sign.data.splits import read_split
from uni_sign.data.tables import MAX_BYTES, Labels, read_list, read_table
from uni_sign.errors import InputError

PHOENIX = """name|video|start|end|speaker|orth|translation
{0}-1|{0}-1/1/*.png|-1|-1|Signer08|DRUCK TIEF KOMMEN|tiefer luftdruck bestimmt in den nächsten tagen unser wetter
{0}-2|{0}-2/1/*.png|-1|-1|Signer08|VIEL WOLKE UND REGEN|viele wolken und zum teil kräftige "schauer"
{0}-3|{0}-3/1/*.png|-1|-1|Signer01|MORGEN
"""
HOW2SIGN = (
    "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n"
    "--7E2s\t--7E2s-5-rgb_front\t--7E2s_10\t--7E2s_10-5-rgb_front\t129.06\t142.48\tAnd I call them {0} elements.\r\n"
    '-d5dN\t-d5dN-1-rgb_front\t-d5dN_0\t-d5dN_0-1-rgb_front\t12.97\t19.52\t"Paint a ""wall"", 6"" wide."\r\n'
    '-d5dN\t-d5dN-1-rgb_front\t-d5dN_1\t-d5dN_1-1-rgb_front\t20.65\t24.28\t"Up" and "down", that\'s it\r\n'
)
OPENASL = (
    "vid\tyid\tstart\tend\traw-text\ttokenized-text\tgloss\tsplit\n"
    "--8pSDeC-fg-00:00:05.0-00:00:10.0\t--8pSDeC-fg\t00:00:05.0\t00:00:10.0\tHello, you!\thello you\tHELLO\ttrain\n"
    "a_b-00:00:01.0-00:00:02.0\ta_b\t00:00:01.0\t00:00:02.0\tGood day.\tgood day\t\tvalid\n"
    "c-00:00:01.0-00:00:02.0\tc\t00:00:01.0\t00:00:02.0\tBye.\tbye\t\ttest\n"
    "d-00:00:01.0-00:00:02.0\td\t00:00:01.0\t00:00:02.0\tWho?\twho\t\tsecret\n"
)


def corpus(root: Path, name: str, files: dict[str, bytes], poses: list[str]) -> Any:
    for path, content in files.items():
        (root / "data" / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name / path).write_bytes(content)
    folder = root / "dataset" / name / "pose_format"
    folder.mkdir(parents=True)
    for pose in poses:
        (folder / f"{pose}.pkl").write_bytes(b"x")
    return load_corpus(name, root)


def targets(corpus: Any, split: str, task: str = "SLT") -> dict[str, str]:
    return {sample.name: sample.target for sample in read_split(corpus, task, split).samples}


# --- real layouts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T/annotations/manual/"])
def test_phoenix_tables(tmp_path: Path, folder: str) -> None:
    files = {f"{folder}PHOENIX-2014-T.{split}.corpus.csv": PHOENIX.format(split).encode() for split in SPLITS}
    # Labels in pickles are not looked at beside them.
    mine = corpus(
        tmp_path, "PHOENIX14T", files | {"labels.dev": b"?"}, [f"{s}-{number}" for s in SPLITS for number in (1, 2)]
    )
    for split in SPLITS:
        assert targets(mine, split) == {
            f"{split}-1": "tiefer luftdruck bestimmt in den nächsten tagen unser wetter",
            f"{split}-2": 'viele wolken und zum teil kräftige "schauer"',
        }
    assert targets(mine, "dev", "CSLR") == {"dev-1": "DRUCK TIEF KOMMEN", "dev-2": "VIEL WOLKE UND REGEN"}
    [problem] = read_split(mine, "SLT", "dev").problems
    assert problem.endswith("PHOENIX-2014-T.dev.corpus.csv: row 4 has 6 fields, not 7.")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("file", ["phoenix14t.pami0.{}", "phoenix14t.pami0.{}.annotations_only.gzip"])
def test_phoenix_pickles(tmp_path: Path, file: str, protocol: int) -> None:
    sign = {} if file.endswith("gzip") else {"sign": torch.ones(7, 1024)}
    files = {}
    for split in SPLITS:
        clips: list[Any] = [
            {
                "name": f"{split}/{split}-{i}",
                "signer": "Signer04",
                "gloss": "JETZT WETTER ",
                "text": f"und {i} .",
                **sign,
            }
            for i in (1, 2)
        ]
        clips += [clips[0], 7, {"text": "no name"}]
        files[file.format(split)] = gzip.compress(pickle.dumps(clips, protocol), 1)
    mine = corpus(tmp_path, "PHOENIX14T", files, [f"{s}-{number}" for s in SPLITS for number in (1, 2)])
    assert targets(mine, "test") == {"test-1": "und 1 .", "test-2": "und 2 ."}
    assert targets(mine, "test", "CSLR")["test-1"].split() == ["JETZT", "WETTER"]
    problems = read_split(mine, "SLT", "test").problems
    assert [problem.partition(": ")[2] for problem in problems] == [
        "clip 3 names clip test-1 again.",
        "clip 4 is no dict with a name.",
        "clip 5 is no dict with a name.",
    ]


def test_how2sign_tables(tmp_path: Path) -> None:
    files = {
        f"how2sign_realigned_{split}.csv": HOW2SIGN.format(split).encode() for split in ("train", "val", "test")
    } | {"how2sign_train.csv": b"?", "labels.dev": b"?"}
    mine = corpus(tmp_path, "How2Sign", files, ["--7E2s_10-5-rgb_front", "-d5dN_0-1-rgb_front", "-d5dN_1-1-rgb_front"])
    assert targets(mine, "dev") == {
        "--7E2s_10-5-rgb_front": "And I call them val elements.",
        "-d5dN_0-1-rgb_front": 'Paint a "wall", 6" wide.',
        "-d5dN_1-1-rgb_front": '"Up" and "down", that\'s it',
    }
    assert not read_split(mine, "SLT", "train").problems


@pytest.mark.parametrize("sign", [":", "%", "-", "_"])
def test_openasl_table(tmp_path: Path, sign: str) -> None:
    names = [line.split("\t")[0] for line in OPENASL.splitlines()[1:]]
    poses = [name.replace(":", sign) for name in names]
    mine = corpus(tmp_path, "OpenASL", {"openasl-v1.0.tsv": OPENASL.encode()}, poses)
    assert targets(mine, "train") == {names[0]: "Hello, you!"}
    assert targets(mine, "dev") == {names[1]: "Good day."}
    assert targets(mine, "test") == {names[2]: "Bye."}
    [problem] = [problem for split in SPLITS for problem in read_split(mine, "SLT", split).problems]
    assert "row 5 is of no split that is known" in problem


@pytest.mark.parametrize("name", ["PHOENIX14T", "How2Sign", "OpenASL"])
def test_pickles_as_the_other_corpora_have_them(tmp_path: Path, name: str) -> None:
    labels = {"a": {"name": "a", "video_path": "a.mp4", "text": "say a", "gloss": ["A"]}}
    files = {f"labels.{split}": gzip.compress(pickle.dumps(labels)) for split in SPLITS}
    mine = corpus(tmp_path, name, files, ["a"])
    assert all(targets(mine, split) == {"a": "say a"} for split in SPLITS)


# --- tensors in pickles ------------------------------------------------------------------------------------


def test_tensors_are_left_out_of_labels_and_refused_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "clips"
    path.write_bytes(pickle.dumps([{"sign": torch.arange(4), "text": "x"}]))
    assert load_pickle(path, without_tensors=True) == [{"sign": None, "text": "x"}]
    with pytest.raises(InputError, match=r"asks for torch\._utils\._rebuild_tensor_v2"):
        load_pickle(path)


# --- tables of one's own -----------------------------------------------------------------------------------


def table(root: Path, content: bytes, separator: str = ",") -> Labels:
    (root / "labels.csv").write_bytes(content)
    return read_table(root / "labels.csv", {"name": "id", "text": "said"}, separator, "train")


def test_fields_in_quotes_may_hold_anything(tmp_path: Path) -> None:
    labels = table(tmp_path, b'\xef\xbb\xbfid,said\na,"one, ""two""\nthree"\n\nb,\xe4\xb8\x80\n')
    assert {name: entry["text"] for name, entry in labels.entries.items()} == {"a": 'one, "two"\nthree', "b": "一"}
    assert not labels.problems


def test_all_that_a_column_can_be(tmp_path: Path) -> None:
    columns = {meaning: meaning[0] for meaning in ("name", "video", "text", "gloss", "language", "split")}
    (tmp_path / "labels.txt").write_bytes(b"n;v;t;g;l;s\nx/a;v.mp4;hi;HI;English; VAL\nb;;hi;HI;English;test\n")
    labels = read_table(tmp_path / "labels.txt", columns, ";", "dev")
    assert labels.entries == {"a": {"name": "a", "video": "v.mp4", "text": "hi", "gloss": "HI", "language": "English"}}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"b", "row 3 has 1 fields, not 2"),
        (b"b|x|y", "row 3 has 3 fields, not 2"),
        (b"b|caf\xe9", "row 3 is not valid UTF-8"),
        (b"b|a\0b", "row 3 holds a zero byte"),
        (b"b|" + b"x" * 100_001, "row 3 has a field of more than 100,000 letters"),
        (b"a|again", "row 3 names clip a again"),
        (b" |x", "row 3 has no name"),
        (b"\x1b[31m|\0", "row 3 holds a zero byte"),
    ],
)
def test_bad_rows_cost_themselves_alone(tmp_path: Path, row: bytes, says: str) -> None:
    labels = table(tmp_path, b"id|said\na|x\n" + row + b"\nc|y\n", "|")
    assert list(labels.entries) == ["a", "c"]
    [problem] = labels.problems
    assert problem == f"{tmp_path / 'labels.csv'}: {says}."


def test_rows_against_the_csv_convention(tmp_path: Path) -> None:
    labels = table(tmp_path, b"id,said\na,x\nb,%s\nc,y\n" % (b"x" * 140_000))
    assert list(labels.entries) == ["a", "c"]
    assert "row 3 breaks the CSV convention (field larger than field limit" in labels.problems[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "no column 'id' in its first row, but nothing"),
        (b"id|said\n", r"no column 'id' in its first row, but id\|said: .*separator \(','\)"),
        (b"id,said,id\n", "more than one column 'id'"),
        (b"id,text\n", "no column 'said' in its first row, but id, text"),
        ("id,said\n".encode("utf-16"), "is in UTF-16: save it in UTF-8"),
        (b"id,said\n" + b"b\n" * 10_001, "more than 10,000 bad rows: .*row 2 has 1 fields, not 2"),
    ],
)
def test_files_that_are_no_such_table(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=rf"labels\.csv .*{says}"):
        table(tmp_path, content)


def test_files_that_are_too_large_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with pytest.raises(InputError, match="does not exist"):
        read_table(path, {"name": "id"}, ",", "train")
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="more than 268,435,456 bytes"):
        read_table(path, {"name": "id"}, ",", "train")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"separator": "||"}, "separator must be one character"),
        ({"separator": '"'}, "separator must be one character"),
        ({"columns": {"name": "a", "txt": "b"}}, "'txt' is none of them"),
        ({"columns": {"name": "a"}}, "name, and text or gloss, are needed"),
        ({"columns": {"text": "a"}}, "name, and text or gloss, are needed"),
        ({"columns": {}}, "name, and text or gloss, are needed"),
        ({"columns": ["name"]}, "columns must hold names"),
        ({"columns": {"name": 1, "text": "b"}}, "columns must hold names"),
    ],
)
def test_corpus_files_with_columns_that_cannot_be(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    content = {
        **{"name": "Mine", "language": "English", "pose_dir": "poses", "label_format": "table"},
        **{"labels": dict.fromkeys(SPLITS, "labels.csv"), "columns": {"name": "id", "text": "said"}, **changes},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=says):
        load_corpus(str(tmp_path / "mine.yaml"), tmp_path)


# --- any table ---------------------------------------------------------------------------------------------

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters='/\0\r\n\t|,;" '), min_size=1, max_size=8).filter(
    lambda name: name == name.strip()
)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.dictionaries(_NAMES, _TEXTS, max_size=8), st.sampled_from(",;"))
def test_what_pythons_writer_wrote_is_read(tmp_path_factory: Any, rows: dict[str, str], separator: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator)
    writer.writerows([("said", "id"), *((text, name) for name, text in rows.items())])
    labels = table(tmp_path_factory.mktemp("any"), file.getvalue().encode(), separator)
    assert {name: entry["text"] for name, entry in labels.entries.items()} == {
        name: text.strip() for name, text in rows.items()
    }
    assert not labels.problems


@given(st.dictionaries(_NAMES, _TEXTS.filter(lambda text: not set(text) & set('\t\n\r"')), max_size=8))
def test_plain_lines_are_read_as_they_are(tmp_path_factory: Any, rows: dict[str, str]) -> None:
    lines = ["said\tid", *(f"{text}\t{name}" for name, text in rows.items())]
    labels = table(tmp_path_factory.mktemp("any"), "\n".join(lines).encode(), "\t")
    assert {name: entry["text"] for name, entry in labels.entries.items()} == {
        name: text.strip() for name, text in rows.items()
    }


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text('id,said\n\r"\0|\ufeffé', max_size=60).map(str.encode), st.sampled_from(",|"))
def test_bytes_of_any_kind_end_in_rows_or_a_sentence(tmp_path_factory: Any, rows: bytes, separator: str) -> None:
    root = tmp_path_factory.mktemp("any")
    for content in (rows, f"id{separator}said\n".encode() + rows):
        try:
            labels = table(root, content, separator)
        except InputError as error:
            labels = Labels({}, [str(error)])
        assert all(set(entry) == {"name", "text"} for entry in labels.entries.values())
        assert all("labels.csv" in problem and problem.isprintable() for problem in labels.problems)


@given(st.lists(st.none() | st.integers() | st.fixed_dictionaries({}, optional={"name": st.text() | st.integers()})))
def test_lists_of_any_kind(clips: list[Any]) -> None:
    labels = read_list(Path("clips"), clips)
    assert len(labels.entries) + len(labels.problems) == len(clips)
    assert all(entry["name"] == name for name, entry in labels.entries.items())
