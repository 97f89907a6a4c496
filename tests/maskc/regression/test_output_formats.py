"""What `maskc check` prints and writes, in each format."""

import json
from pathlib import Path
from xml.etree import ElementTree

from markdown_it import MarkdownIt

from maskc.errors import visible
from maskc.regression import check as regress
from maskc.regression import output_formats
from maskc.regression.findings import Finding
from tests.maskc.regression.edits import check, edit, unmask


def test_every_format_names_the_layer(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    files = [f"{name}=out.{name}" for name in output_formats.FORMATS]
    result = check(*(word for file in files for word in ("--format", file)))
    assert result.exit_code == 1
    texts = {name: Path(f"out.{name}").read_text() for name in output_formats.FORMATS}
    assert texts["table"] == result.stdout, "the table is printed as well"
    for text in texts.values():
        assert "has 9 channels and had 8" in text and "channel 3 is no longer masked" in text
        assert "layer 'first'" in text
    told = json.loads(texts["json"])
    assert told["schema"] == 1 and [model["passed"] for model in told["models"]] == [False, True]
    assert told["models"][0]["findings"][0]["kind"] == "flops"
    suite = ElementTree.fromstring(texts["junit"]).find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    times = [float(case.get("time", "nan")) for case in suite.iter("testcase")]
    assert min(times) > 0 and abs(float(suite.get("time", "nan")) - sum(times)) < 0.01, "those that failed, too"
    failure = suite.find("testcase[@name='models/a.onnx']/failure")
    assert failure is not None and failure.get("type") == "flops" and "no longer masked" in (failure.text or "")
    assert suite.find("testcase[@name='models/b.onnx']/failure") is None
    annotation, summary = texts["github"].splitlines()
    assert annotation.startswith("::error file=models/a.onnx,title=maskc check::models/a.onnx: FLOPs rose")
    assert "%0A" in annotation and "%25" in annotation and summary == "Of 2 models, 1 regressed."
    assert "| `models/a.onnx` | " in texts["markdown"] and "**regressed**" in texts["markdown"]


def test_errors_and_notes_in_every_format(tmp_path: Path) -> None:
    outcome = regress.Outcome("m|x.onnx", tmp_path / "a,b:c.onnx", notes=("A\x00 note.",), error="It *fails* <b>.")
    junit = ElementTree.fromstring(output_formats.as_junit([outcome]))
    error = junit.find("testsuite/testcase/error")
    assert error is not None and error.get("message") == "It *fails* <b>."
    github = output_formats.as_github([outcome])
    assert "a%2Cb%3Ac.onnx" in github and "::notice " in github
    markdown = output_formats.as_markdown([outcome])
    assert "It \\*fails\\* \\<b\\>." in markdown and "m&#124;x&#46;onnx" in markdown
    assert json.loads(output_formats.as_json([outcome]))["models"][0]["error"] == "It *fails* <b>."
    assert "not checked" in output_formats.as_table([outcome])


def test_json_on_stdout_and_nothing_else(repository: Path) -> None:
    assert json.loads(check("--json").stdout)["passed"] is True
    assert json.loads(check("--format", "json").stdout)["passed"] is True


def test_nothing_breaks_out_of_markdown(tmp_path: Path) -> None:
    """What GitHub makes of names that end code, cells, fences and lines: text, and nothing else."""
    name = "a`b|c\\|d\n# Heading\n\n| x | <img src=x> @all"
    hostile = (
        "[link](http://x.y) ![i](j) ``` ~~~ **b** _e_ ~~s~~ <b> &lt; @all `code` | \\| \x1b[2J\r\n# Heading\n- item"
    )
    finding = Finding("flops", f"FLOPs of {hostile} rose.", (f"layer '{hostile}'", "````", "</code>", "```\n# Heading"))
    outcome = regress.Outcome(name, tmp_path / name, findings=(finding,), notes=(hostile,), error=hostile)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(output_formats.as_markdown([outcome]))
    kinds = [token.type for token in tokens]
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h3"], "maskc's own"
    assert kinds.count("tr_open") == 2 and kinds.count("td_open") == len(output_formats._TITLES)
    assert kinds.count("fence") == 1 and not set(kinds) & {"html_block", "bullet_list_open", "code_block", "hr"}
    (fence,) = (token for token in tokens if token.type == "fence")
    assert len(fence.content.splitlines()) == 4 and r"\x1b[2J\r\n# Heading" in fence.content
    inside = [child for token in tokens for child in token.children or ()]
    assert {child.content for child in inside if child.type == "html_inline"} == {"<code>", "</code>"}
    assert {child.type for child in inside} <= {"text", "html_inline", "strong_open", "strong_close", "text_special",
                                                "link_open", "link_close"}  # fmt: skip
    said = "".join(child.content for child in inside)
    assert said.count(visible(name)) == 4 and visible(hostile) in said
    assert "\x1b" not in output_formats.as_junit([outcome]) + output_formats.as_github([outcome])
    assert output_formats.as_github([outcome]).count("\n") == 4, "an annotation of each, and the summary"
