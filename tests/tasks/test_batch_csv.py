"""Batches of a CSV table: what columns and cells mean, errors of single rows, and the table of results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk, Request, SamplingParams, Steering
from mixer.cli import main
from mixer.errors import InvalidValue, UnknownName
from mixer.files.csv_table import read_table, write_table
from mixer.tasks.batch import write
from mixer.tasks.batch_csv import REQUIRED, BatchTable, sample
from mixer.values.chat import Conversation, prompt_of
from mixer.values.steering import REST
from tests.factory import TEMPLATE


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk.load(auto_fold=False)


def default(desk: Desk) -> Request:
    return Request("Once", desk.mix(humor=0.4), SamplingParams(max_new_tokens=8, seed=5))


def table_of(desk: Desk, text: str, asked: Request | None = None, served: bool = False) -> BatchTable:
    return BatchTable(desk, read_table(text, "prompt"), asked or default(desk), served)


def run(made: BatchTable) -> BatchTable:
    for _ in write(made.desk, made.jobs):
        pass
    return made


position = st.none() | st.floats(-1.5, 1.5).map(lambda x: round(x, 3))


@given(
    st.none() | st.text("abc", min_size=1),
    position,
    st.none() | st.integers(0, 2**53),
    st.none() | st.integers(1, 500),
    st.none() | st.floats(0, 2),
    position,
    st.sampled_from(",;\t"),
)
def test_a_row_is_what_its_cells_say_and_otherwise_the_default(
    desk: Desk, prompt, humor, seed, tokens, warmth, reward, delimiter
):
    values = {
        "prompt": prompt,
        "humor": humor,
        "seed": seed,
        "tokens": tokens,
        "temperature": warmth,
        "r.humor": reward,
    }
    cells = ["" if value is None else str(value) for value in values.values()]
    if delimiter != ",":
        cells = [cell.replace(".", ",") for cell in cells]
    [job] = table_of(
        desk,
        f"{delimiter.join(values)},note".replace(",note", f"{delimiter}note") + "\n" + delimiter.join([*cells, "x"]),
    ).jobs
    asked, usual = job.request, default(desk)
    assert not job.error
    assert asked.prompt == (prompt or usual.prompt)
    assert asked.mix == (usual.mix if humor is None else desk.mix(humor=humor))
    assert asked.params.seed == (5 if seed is None else seed)
    assert asked.params.max_new_tokens == (8 if tokens is None else tokens)
    assert asked.params.temperature == (usual.params.temperature if warmth is None else warmth)
    assert asked.steering == (Steering({"humor": reward}) if reward else REST)


@pytest.mark.parametrize(
    "head, cell, message",
    [
        (
            "humor",
            "2",
            "Row 2, column humor: The position is 2, which is out of range. Give a number from -1.5 to 1.5.",
        ),
        ("humor", "much", "Row 2, column humor: 'much' is no number. Write it as 0.6."),
        ("humor", "nan", "Row 2, column humor: The position is nan"),
        ("s.humor", "-2", "Row 2, column s.humor: The position is -2"),
        ("tokens", "12.5", "Row 2, column tokens: 12.5 is no whole number"),
        ("tokens", "1,000", "Row 2, column tokens: 1,000 is no whole number. Write it with digits alone."),
        ("tokens", "1001", "Row 2, column tokens: The number of tokens is 1001, which is out of range"),
        ("seed", "-2", "Row 2, column seed"),
        ("seed", "9" * 5000, "Row 2, column seed"),
        ("temperature", "3", "Row 2, column temperature: The temperature is 3"),
        ("formula", "[fromal]", "Row 2, column formula: Line 1, column 2: "),
        ("reward.humor", "9", "Row 2, column reward.humor: reward humor is 9"),
        ("aim.humor", "-0.1", "Row 2, column aim.humor: level of humor is -0.1"),
    ],
)
def test_an_error_names_row_and_column_and_stops_no_other_row(desk: Desk, head: str, cell: str, message: str):
    made = table_of(desk, f'prompt,{head}\nA,"{cell}"\nB,', served=True)
    assert made.jobs[0].error.startswith(message)
    assert not made.jobs[1].error


words = st.none() | st.text("abc", min_size=1)


@given(words, st.none() | st.booleans(), words, st.none() | st.integers(0, 2), st.booleans())
def test_a_row_replies_to_what_its_cells_say(desk: Desk, prompt, reply, system, before, usual):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    messages = None if before is None else [*turns * before, {"role": "user", "content": "z"}]
    cells = [prompt, None if reply is None else "yes" if reply else "No", system, messages and json.dumps(messages)]
    text = write_table(["prompt", "reply", "system", "messages", "seed"], [[*(cell or "" for cell in cells), "1"]])
    [job] = BatchTable(desk, read_table(text, "prompt"), default(desk), reply=usual, system="told").jobs
    if messages and prompt:
        assert job.error.startswith("Row 2: There is a prompt beside the messages.")
    else:
        conversation = Conversation.of(messages) if messages else None
        replies = usual if reply is None else reply
        asked = prompt_of("" if messages else prompt or "Once", replies, system or "told", conversation)
        assert (job.request.prompt, job.error) == (asked, "")


@pytest.mark.parametrize(
    "head, cell, message",
    [
        ("reply", "perhaps", "Row 2, column reply: 'perhaps' is neither yes nor no. Write yes or no."),
        ("messages", "Hello", "Row 2, column messages: 'Hello' is no JSON list. Give messages such as [{"),
        ("messages", "[" * 9000, "Row 2, column messages: '[[["),
        ("messages", "[]", "Row 2, column messages: A conversation has 1 to 1,000 messages, not 0."),
        ("Messages", '[{""role"": ""king""}]', "Row 2, column Messages: Message 1 has no role out of system, user"),
    ],
)
def test_a_wrong_conversation_is_an_error_of_its_row_alone(desk: Desk, head: str, cell: str, message: str):
    made = table_of(desk, f'prompt,{head}\n,"{cell}"\nB,', served=True)
    assert made.jobs[0].error.startswith(message) and not made.jobs[1].error


def test_the_fewest_tokens_go_with_the_most_and_with_whether_a_row_replies(desk: Desk):
    table = read_table("prompt,tokens,reply,min_new_tokens\nA,,,\nA,,yes,\nA,40,no,\nA,3,yes,\nA,3,no,2", "prompt")
    asked = Request("Once", params=SamplingParams(max_new_tokens=8, min_new_tokens=5))

    def fewest(made: BatchTable) -> list[int]:
        return [job.request.params.min_new_tokens for job in made.jobs]

    assert fewest(BatchTable(desk, table, asked)) == [5, 5, 5, 3, 2]
    half = BatchTable(desk, table, asked, fewest_tokens=lambda most, reply: 0 if reply else most // 2)
    assert fewest(half) == [4, 0, 20, 0, 2]


def test_replies_are_those_of_the_desk_and_an_answer_read_again_gives_them_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    messages = [{"role": "user", "content": "=1"}, {"role": "assistant", "content": "x"}]
    messages.append({"role": "user", "content": 'Say "y", please.'})
    text = write_table(["messages", "reply", "prompt", "system"], [[json.dumps(messages), "", "", "Be brief."]])
    text += "".join(write_table(["", "yes", "A", ""], [["", "", "A", ""]]))

    def written() -> BatchTable:
        return run(BatchTable(desk, read_table(text, *REQUIRED), replace(default(desk), mix=desk.mix())))

    assert [job.error.partition(":")[2][:34] for job in written().jobs[:2]] == [
        " This model has no chat template: "
    ] * 2
    monkeypatch.setattr(desk.tokenizer, "chat_template", TEMPLATE)
    made = written()
    told = [{"role": "system", "content": "Be brief."}, *messages]
    params = default(desk).params
    assert [job.text for job in made.jobs] == [
        desk.chat(told, params=params).text,
        desk.chat("A", params=params).text,
        desk.generate("A", params=params).text,
    ]
    first = text = made.text()
    assert written().text() == first


def test_every_sampling_parameter_has_a_column(desk: Desk):
    made = table_of(
        desk,
        "prompt,min_new_tokens,tokens,top_k,min_p,stop,bias.7,bias.a b,repetition_penalty,dry_allowed_length\n"
        'A,300,400,5,"0,1","[""x"", ""\\n""]",-100,2,1.2,3\nB,,,,,end,,,,\nC,,,,,[x,,,,\nD,,,,,,101,,,',
    )
    params = [job.request.params for job in made.jobs]
    asked = {"max_new_tokens": 400, "min_new_tokens": 300, "top_k": 5, "min_p": 0.1, "stop": ["x", "\n"]}
    biases = {7: -100, "a b": 2}
    assert params[0] == replace(params[3], **asked, logit_bias=biases, repetition_penalty=1.2, dry_allowed_length=3)
    assert params[1].stop == ("end",)
    assert made.jobs[2].error.startswith("Row 4, column stop: '[x' is no JSON list.")
    assert made.jobs[3].error.startswith("Row 5, column bias.7: The bias is 101, which is out of range.")


def test_a_head_has_a_reward_or_an_aim(desk: Desk):
    made = table_of(desk, "prompt,reward.humor,aim.humor\nA,1,\nB,,0.5\nC,1,0.5")
    assert [job.request.steering for job in made.jobs[:2]] == [Steering({"humor": 1}), Steering({}, {"humor": 0.5})]
    assert made.jobs[2].error == (
        "Row 4, column aim.humor: humor has both a reward and an aim. Leave one of them empty."
    )
    asked = Request("Once", steering=Steering({"humor": 1}, {"sentiment": 0.2}, budget=0.5))
    [job] = table_of(desk, "prompt,aim.humor\n,0.1", asked=asked).jobs
    assert job.request.steering == Steering({}, {"humor": 0.1, "sentiment": 0.2}, budget=0.5)


def test_too_many_cells_are_told_from_a_few_too_few(desk: Desk):
    made = table_of(desk, "prompt,humor\nDear all, hello,1,2\nB\nC,1,,")
    assert made.jobs[0].error.startswith("Row 2 has 4 cells, and the header has 2.")
    assert [bool(job.error) for job in made.jobs] == [True, False, False]


def test_columns_that_mean_nothing_are_carried_along_and_named(desk: Desk):
    made = run(table_of(desk, "id,Prompt,formalty\n=7,Hello,1"))
    assert made.notes == (
        "The column 'formalty' steers nothing. Did you mean formality?",
        "Carried along as they are: id.",
    )
    found = read_table(made.text(), "prompt")
    assert found.columns[:4] == ("id", "Prompt", "formalty", "text") and found.rows[0][:3] == ("=7", "Hello", "1")
    with pytest.raises(UnknownName, match="no reward called 'charm'"):
        table_of(desk, "prompt,reward.charm\nA,1")
    with pytest.raises(InvalidValue, match="mean the same"):
        table_of(desk, "prompt,humor,s.humor\nA,1,1")


def test_the_answer_holds_text_scores_seed_finish_and_error(desk: Desk):
    made = run(table_of(desk, "prompt,humor\nThe door,0.8\nB,9\n"))
    found = read_table(made.text(";"), "prompt")
    judges = [f"score.{name}" for name in desk.scores(".")]
    assert found.columns == ("prompt", "humor", "text", *judges, "seed", "finish", "error")
    first, second = (dict(zip(found.columns, row, strict=True)) for row in found.rows)
    params = SamplingParams(max_new_tokens=8, seed=5)
    assert first["text"] == desk.generate("The door", desk.mix(humor=0.8), params).text != ""
    assert float(first["score.humor"]) == pytest.approx(desk.scores(first["text"])["humor"], abs=1e-4)
    assert (first["seed"], first["finish"], first["error"]) == ("5", "length", "")
    assert second["error"].startswith("Row 3, column humor") and second["text"] == second["score.humor"] == ""
    assert made.done == 2


def test_an_answer_read_as_a_batch_gives_the_same_texts(desk: Desk):
    asked = Request("Once", params=SamplingParams(max_new_tokens=6, temperature=1.5))  # a fresh seed for each row
    first = run(table_of(desk, "prompt,Seed,humor\nA,,1\nA,,1\n,8,", asked=asked)).text()
    second = run(table_of(desk, first, asked=asked)).text()
    assert second == first
    assert len({row[-3] for row in read_table(first, "prompt").rows}) == 3


def test_what_is_not_done_is_left_out(desk: Desk):
    made = table_of(desk, "prompt,tokens\nA,2\nB,20\nC,x")
    steps = write(desk, made.jobs)
    while made.done < 2:
        next(steps)
    steps.close()
    assert [row[0] for row in read_table(made.text(), "prompt").rows] == ["A", "C"]


def test_the_sample_is_understood(desk: Desk, tiny: Path):
    for one in (desk, Desk.load(tiny / "base", tiny / "anchors", judges=None)):
        made = table_of(one, sample(one), asked=Request("Once"))
        assert made.notes == () and [job.error for job in made.jobs] == ["", ""]


def test_the_command_line_answers_a_file_and_goes_on_after_a_wrong_row(tiny: Path, tmp_path: Path, capsys):
    """The results have the delimiter of the input, and `--json` prints one object."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes("\ufeffprompt;humor\r\nDéar;0,5\r\nDear;9\r\n".encode())
    words = ["batch", str(source), str(out), "--base", str(tiny / "base"), "--anchors", str(tiny / "anchors")]
    assert main([*words, "--max-new-tokens", "4", "--seed", "2", "--set", "formality=1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["rows"], record["written"]) == (2, 1) and record["errors"][0].startswith("Row 3, column humor")
    table = read_table(out.read_bytes().decode(), "prompt")
    assert table.delimiter == ";" and table.columns[:3] == ("prompt", "humor", "text")
    desk = Desk.load(tiny / "base", tiny / "anchors")
    found = desk.generate("Déar", desk.mix(humor=0.5, formality=1), SamplingParams(max_new_tokens=4, seed=2))
    assert table.rows[0][2] == found.text and table.rows[1][2] == ""
    assert main(words) == 2 and "already there" in capsys.readouterr().err
    source.write_bytes(b"messages\n[]\n")
    assert main([*words, "--overwrite", "--chat", "--system", "Be brief."]) == 0
    assert "Row 2, column messages: A conversation has 1 to 1,000 messages" in capsys.readouterr().out
    source.write_bytes(b"prompt\n\xff")
    assert main([*words, "--overwrite"]) == 2 and "not in UTF-8" in capsys.readouterr().err
    assert main([*words[:1], str(tmp_path / "no.csv"), *words[2:], "--overwrite"]) == 2
    assert "cannot be read" in capsys.readouterr().err
