"""Files of label names: what is read, and what is said about mistakes. Lists and captions are tested with their readers."""

import json
import re

import pytest

from modeling_videomamba.checkpoints import labels
from modeling_videomamba.checkpoints.labels import load_labels
from tests.rows import all_rows


def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path):
    def check(name, text, wrong):
        (tmp_path / name).write_text(text, newline="")
        with pytest.raises(ValueError, match=re.escape(name) + wrong):
            load_labels(str(tmp_path / name), 2)

    all_rows(
        check,
        [
            ("a.json", "{oops", ": not JSON"),
            ("b.json", '{"x": "y"}', ", item 'x': expected a class id"),
            ("b.json", '{"-1": "y"}', ", item '-1': expected a class id"),
            ("b.json", '{"10000000000": "y"}', ", item '10000000000': expected a class id"),
            ("b.json", '{"1": "x", "01": "y"}', ", item '01': expected a class id, 0 or more and each once"),
            ("b.json", '{"1": "x", "1": "y"}', ": an object has the key '1' twice"),
            ("b.json", '{"0": "x", "7": "y"}', " has no name for 1"),
            ("c.json", "[1, 2]", ", item 1: expected the name of a label, got 1"),
            ("c.json", '["run", "run"]', ", item 2: the label 'run' is there already, in .*c.json, item 1"),
            ("c.json", '["run", "run "]', ", item 2: the label 'run' is there already, in .*c.json, item 1"),
            ("c.json", r'["run", "\ud800"]', ", item 2: expected the name of a label, got '.*ud800'"),
            ("c.json", r'["run", "a\nb"]', ", item 2: expected the name of a label, got 'a.*nb'"),
            ("f.txt", "run\n\x1b[31mjump", ", line 2: expected the name of a label, got '.*jump'"),
            ("f.txt", "1 run\n2 jump", ": the names begin with numbers, such as '1 run'. Leave them out"),
            ("c.json", '{"1": "1 run", "2": "2 jump"}', ": the names begin with numbers, such as '1 run'. Leave them out"),
            ("f.csv", "0,run\n1,jump", ": the names begin with numbers, such as '0,run'. Leave them out"),
            ("d.json", "3", ": expected a list of names or an object from id to name, got 3"),
            ("d.json", '"xy"', ": expected a list of names or an object from id to name, got 'xy'"),
            ("e.json", "[" * 10**5, ": JSON that is nested too deeply"),
            ("e.json", f"[{'1' * 5000}]", ": Exceeds the limit"),
            ("f.txt", "run\njump\n run\r\n", ", line 3: the label 'run' is there already, in .*f.txt, line 1"),
            ("f.txt", "run\n\njump", ", line 2: expected the name of a label, got ''"),
            ("f.txt", "", ", line 1: expected the name of a label, got ''"),
            ("f.txt", "run\nju\0mp", ", line 2: not text, it holds a null character"),
        ],
    )


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 2), ("utf-16", 1)])
def test_a_file_that_is_not_utf8_is_named_with_the_line(tmp_path, encoding, line):
    (tmp_path / "names.txt").write_text("run\ncafé", encoding=encoding)
    with pytest.raises(ValueError, match=f"names.txt, line {line}: .*Save it as UTF-8"):
        load_labels(str(tmp_path / "names.txt"))


def test_a_wanted_number_is_never_counted_up_to(tmp_path):
    (tmp_path / "names.txt").write_text("x\ny\n")
    with pytest.raises(ValueError, match="names 2 labels, 10000000000 are wanted"):
        load_labels(str(tmp_path / "names.txt"), 10**10)


def test_names_on_the_hub_may_repeat(monkeypatch, tmp_path):
    """ImageNet has two cranes."""
    (tmp_path / "hub.json").write_text(json.dumps(["crane", "crane"]))
    monkeypatch.setattr(labels, "fetch", lambda *args, **kwargs: tmp_path / "hub.json")
    assert load_labels("imagenet-1k", 2) == {0: "crane", 1: "crane"}


def test_names_may_have_numbers(tmp_path):
    def check(names):
        (tmp_path / "names.txt").write_text("\n".join(names))
        assert list(load_labels(str(tmp_path / "names.txt"), 2).values()) == names

    all_rows(check, [["3 balls", "2 balls"], ["0", "1"], ["1 ball", "balls"]])


def test_names_as_editors_write_them(tmp_path):
    def check(content):
        (tmp_path / "names.txt").write_bytes(content.encode())
        assert load_labels(str(tmp_path / "names.txt"), 2) == {0: "run", 1: "jump"}

    all_rows(check, ["\ufeffrun\r\njump\r\n", "run\njump", "run \njump\n\n"])
