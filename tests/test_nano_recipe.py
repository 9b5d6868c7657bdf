"""nano's recipe: what the model reads, what it learns from it, and that training can be resumed."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgeagent import gguf_header
from edgeagent.scenarios.airline import backend
from models.nano import airline, augment, diet, retime, sgd, tau, template, values
from models.nano.dialogue import DEFER_TOOL, RESPOND_TOOL, Dialogue
from models.nano.template import CALL_OPENING, call, render, respond, result, tool, user

TEXT = {"type": "string"}
FIND = tool(
    "FindRestaurants",
    {"cuisine": TEXT, "city": TEXT, "price_range": {"type": "string", "enum": ["cheap", "dear"]}},
    ["cuisine", "city"],
)
TALK = (
    user("I would like to eat in Palo Alto."),
    respond("What would you like?"),
    user("Thai food, please"),
    call("FindRestaurants", {"cuisine": "Thai", "city": "Palo Alto"}),
    result([{"restaurant_name": "Green Elephant", "city": "Palo Alto"}]),
    respond("How about Green Elephant?"),
    user("Fine, thanks"),
    respond("Enjoy!"),
)
DIALOGUE = Dialogue("test", (RESPOND_TOOL, FIND), TALK)


def test_the_prompt_is_the_format_that_the_runtime_expects() -> None:
    flights = {
        "type": "object",
        "properties": {"number": TEXT, "date": TEXT},
        "required": ["number"],
    }
    book = tool("book", {"flights": {"type": "array", "items": flights}, "note": TEXT}, ["flights"])
    nothing = tool("list_all_airports", {}, [])
    assert render(TALK[2:5], (FIND, book, nothing), is_prompt=True) == (
        "<|im_start|>system\n"
        "FindRestaurants(cuisine, city, price_range?=cheap|dear)\n"
        "book(flights[number, date?], note?)\n"
        "list_all_airports()\n"
        "<|im_end|>\n"
        "<|im_start|>user\nThai food, please<|im_end|>\n"
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "FindRestaurants", "arguments": {"cuisine": "Thai", "city": "Palo Alto"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n"
        "[1: 1 {restaurant_name Green Elephant, city Palo Alto}]\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")], ids=["wide", "narrow"])
def test_a_result_is_read_without_the_quotes_of_its_json(separators: tuple[str, str]) -> None:
    told = {"cabin": "economy", "bags": 2, "legs": [{"no": "HAT085", "time": "10:30"}], "who": None}
    text = render([result(json.dumps({**told, "ids": ["A", "B"]}, separators=separators))])
    legs = "legs [1: 1 {no HAT085, time 10:30}]"
    assert f"{{cabin economy, bags 2, {legs}, who null, ids [A, B]}}" in text


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    ("told", "read"),
    [
        ([{"no": 7}, {"no": 8}, {"no": 9}], "[3: 1 {no 7}, 2 {no 8}, 3 {no 9}]"),
        ([], "[]"),
        # Of a connection, each flight.
        ([[{"no": 7}, {"no": 8}], [{"no": 9}]], "[[2: 1 {no 7}, 2 {no 8}], [1: 1 {no 9}]]"),
        # Two lists side by side, and a mapping between them, which is no list.
        (
            {"a": [{"no": 7}], "ways": {"x": {"n": 1}, "y": {"n": 2}}, "b": [{"no": 8}, {"no": 9}]},
            "{a [1: 1 {no 7}], ways {x {n 1}, y {n 2}}, b [2: 1 {no 8}, 2 {no 9}]}",
        ),
    ],
)
def test_the_records_of_a_list_are_counted_and_numbered(
    told: object, read: str, separators: tuple[str, str]
) -> None:
    text = render([result(json.dumps(told, separators=separators))])
    assert f"\n{read}\n" in text.replace("},y", "}, y").replace("],b", "], b").replace(
        "],[", "], ["
    )


def test_a_result_that_is_no_json_is_read_as_it_is() -> None:
    assert "\nError: user not found, at 10:30\n" in render(
        [result("Error: user not found, at 10:30")]
    )


def test_a_prompt_is_a_prefix_of_every_later_one() -> None:
    prompts = [render(TALK[:n], DIALOGUE.tools) for n in range(len(TALK) + 1)]
    for shorter, longer in pairwise(prompts):
        assert longer.startswith(shorter)


@pytest.mark.parametrize(
    ("policy", "title"),
    [
        ("# A desk\n\nIt is May.\n- Be kind.", "# A desk\n"),
        ("You serve tea. Be kind. Be quick.", "You serve tea\n"),
        ("", ""),
    ],
)
def test_of_the_policy_a_prompt_has_the_title_above_the_tools(policy: str, title: str) -> None:
    text = render(TALK, (FIND,), policy=policy)
    assert text.startswith(f"<|im_start|>system\n{title}FindRestaurants(")
    assert "kind" not in text


def test_most_lessons_are_under_the_desks_own_title_and_some_under_any_other() -> None:
    policies = [d.policy for d in airline.dialogues(3, 80)]
    n_own = policies.count(airline.POLICY)
    assert n_own > 60
    assert len(set(policies)) > 2
    assert {d.policy for d in airline.dialogues(3, 20, "held_out")} == {airline.POLICY}


def test_without_tools_there_is_no_system_block() -> None:
    assert render([user("hi")]) == "<|im_start|>user\nhi<|im_end|>\n"


def test_letters_beyond_ascii_are_not_escaped_in_a_call() -> None:
    assert '"message": "Chào bạn, café & “tea” <b>"' in render(
        [respond("Chào bạn, café & “tea” <b>")]
    )


def test_replaced_values_are_the_same_wherever_they_stand() -> None:
    swapped = augment.replace_values(DIALOGUE, Random(1), ())
    arguments = swapped.messages[3]["tool_calls"][0]["function"]["arguments"]
    assert arguments["city"] != "Palo Alto"
    assert arguments["city"] in swapped.messages[0]["content"]
    assert arguments["city"] in swapped.messages[4]["content"]
    text = render(swapped.messages, swapped.tools)
    assert "Palo Alto" not in text
    assert "Green Elephant" not in text


def test_a_value_that_the_customer_did_not_spell_out_is_kept() -> None:
    """Nobody could know what the replacement of an abbreviated city is."""
    said = Dialogue("test", (FIND,), (user("Thai in SF"), call(
        "FindRestaurants", {"cuisine": "Thai", "city": "San Francisco"})))  # fmt: skip
    swapped = augment.replace_values(said, Random(1), ())
    assert swapped.messages[1]["tool_calls"][0]["function"]["arguments"]["city"] == "San Francisco"


def test_varied_tools_still_take_every_call_of_the_dialogue() -> None:
    for seed in range(40):
        varied = augment.vary_tools(DIALOGUE, Random(seed), [DEFER_TOOL, RESPOND_TOOL])
        offered = {t["function"]["name"]: t["function"] for t in varied.tools}
        assert len(offered) == len(varied.tools)
        for message in varied.messages:
            if message.get("tool_calls"):
                function = message["tool_calls"][0]["function"]
                keys = list(offered[function["name"]]["parameters"]["properties"])
                used = list(function["arguments"])
                assert used == [key for key in keys if key in used]


def test_an_exercise_says_every_value_before_it_is_used() -> None:
    for dialogue in diet.dialogues(Random(3), 50):
        said = ""
        for message in dialogue.messages:
            if message.get("tool_calls"):
                function = message["tool_calls"][0]["function"]
                if function["name"] != "respond_to_user":
                    assert all(value in said for value in function["arguments"].values())
            else:
                said += message["content"]


def test_the_same_seed_gives_the_same_exercises() -> None:
    assert list(diet.dialogues(Random(5), 5)) == list(diet.dialogues(Random(5), 5))
    assert values.user_id(Random(1)) == values.user_id(Random(1))


SCHEMA = [{
    "service_name": "Restaurants_1",
    "slots": [
        {"name": "city", "is_categorical": False, "possible_values": []},
        {"name": "price", "is_categorical": True, "possible_values": ["cheap", "dear"]},
    ],
    "intents": [
        {"name": "Find", "required_slots": ["city"], "optional_slots": {"price": "dontcare"}}
    ],
}]  # fmt: skip


def _corpus(folder: Path, split: str) -> None:
    import json

    (folder / split).mkdir(parents=True)
    (folder / split / "schema.json").write_text(json.dumps(SCHEMA))
    call_frame = {
        "service": "Restaurants_1",
        "service_call": {"method": "Find", "parameters": {"city": "Napa"}},
        "service_results": [{"city": "Napa", "price": "cheap"}] * 6,
    }
    turns = [
        {"speaker": "USER", "utterance": "I am looking for food in Napa", "frames": [{}]},
        {"speaker": "SYSTEM", "utterance": "There are six places", "frames": [call_frame]},
    ]
    rows = [{"dialogue_id": "1_0", "services": ["Restaurants_1"], "turns": turns}]
    (folder / split / "dialogues_001.json").write_text(json.dumps(rows))


def test_sgd_is_read_from_its_own_layout(tmp_path: Path) -> None:
    _corpus(tmp_path, "train")
    (recorded,) = sgd.read(tmp_path, ("train",))
    dialogue = sgd.dialogue_of(recorded, sgd.schemas(tmp_path, "train"))
    text = render(dialogue.messages, dialogue.tools)
    assert "Find(city, price?=cheap|dear)" in text
    assert '{"name": "Find", "arguments": {"city": "Napa"}}' in text
    assert text.count("price cheap") == sgd.MAX_RESULTS
    assert text.endswith('{"message": "There are six places"}}\n</tool_call><|im_end|>\n')


def test_restaurant_tests_and_the_development_file_stay_out(tmp_path: Path) -> None:
    for split in ("train", "test"):
        _corpus(tmp_path, split)
    recorded = list(sgd.read(tmp_path, ("train", "test")))
    assert list(sgd.held_out(recorded, [])) == ["test/1_0"]
    seen = sgd.fingerprint(["I am LOOKING for food,  in Napa!"])
    assert set(sgd.held_out(recorded, [seen])) == {"train/1_0", "test/1_0"}


def _talk(*turns: tuple[str, ...]) -> sgd.Recorded:
    return sgd.Recorded("1_0", "train", ("Hotels_1",), turns)


def test_lines_are_answers_that_say_nothing_else() -> None:
    agreed = _talk(
        ("user", "Find me a room"), ("say", "Please confirm: Napa."),
        ("user", "Yes, that works for me."), ("call", "Reserve", {}), ("say", "Done."),
        ("user", "Great, that is all."), ("say", "Bye."),
    )  # fmt: skip
    declined = _talk(
        ("user", "Find me a room"), ("say", "Shall I reserve it?"), ("user", "No, not yet."),
        ("say", "All right."), ("user", "Thanks, bye."), ("say", "Bye."),
    )  # fmt: skip
    further = _talk(
        ("user", "Find me a room"), ("say", "Please confirm: Napa."),
        ("user", "Yes, and what does it cost?"), ("call", "Reserve", {}),
        ("say", "Shall I reserve it?"), ("user", "No, I need a bus first."), ("say", "Which?"),
        ("user", "To Napa at 5"), ("say", "Done."),
    )  # fmt: skip
    found = sgd.lines([agreed, declined, further])
    assert found.yes == ("Yes, that works for me.",)
    assert found.no == ("No, not yet.",)
    assert found.closing == ("Great, that is all.", "Thanks, bye.")


def test_recorded_words_stand_only_where_they_mean_the_same() -> None:
    from models.nano import airline

    words = ("AGREED", "DECLINED", "ENDED")
    spoken = sgd.Lines(*((word,) for word in words))
    plain = list(airline.drill(3, 300))
    said = list(airline.drill(3, 300, spoken))
    seen: Counter[str] = Counter()
    for before, after in zip(plain, said, strict=True):
        assert len(before.messages) == len(after.messages)
        for at, message in enumerate(after.messages):
            if message["role"] != "user" or message["content"] not in words:
                continue
            seen[message["content"]] += 1
            called = after.messages[at + 1]["tool_calls"][0]["function"]
            reply = called["arguments"].get("message", "")
            match message["content"]:
                case "AGREED":
                    assert called["name"] in airline.WRITES
                case "DECLINED":
                    assert reply.startswith("All right")
                case _:
                    assert reply.startswith("You are welcome")
    assert min(seen[word] for word in words) > 1


class Letters:
    """A tokenizer with one token for each character, for tests without the `train` extra."""

    def encode(self, sequence: str) -> Any:
        ids = [ord(letter) for letter in sequence]
        return type("Encoding", (), {"ids": ids, "offsets": [(i, i + 1) for i in range(len(ids))]})


def _flagged(window: Any, flag: int) -> str:
    pairs = zip(window.ids, window.flags, strict=True)
    return "".join(chr(i) if f & flag else "·" for i, f in pairs)


def test_what_is_learnt_is_the_call_behind_the_forced_opening() -> None:
    windows = pytest.importorskip("models.nano.windows")
    (window,) = windows.windows(DIALOGUE, Letters(), 100_000, Random(0))
    learnt = [part for part in _flagged(window, windows.CALL).split("·") if part]
    calls = [render([message]) for message in TALK if message.get("tool_calls")]
    assert learnt == [text[len(CALL_OPENING) : -1] for text in calls]
    names = [part for part in _flagged(window, windows.NAME).split("·") if part]
    assert names[1] == "FindRestaurants"


def test_copied_values_are_those_that_stand_earlier_in_the_window() -> None:
    from models.nano import windows

    (window,) = windows.windows(DIALOGUE, Letters(), 100_000, Random(0))
    copied = [part for part in _flagged(window, windows.COPY).split("·") if part]
    assert copied == ["Thai", "Palo Alto"]


def test_a_choice_is_what_the_few_tokens_before_it_do_not_foresee() -> None:
    np = pytest.importorskip("numpy")
    from models.nano.choices import choices
    from models.nano.windows import CALL, REPLY

    rng = Random(0)
    thoughts = "".join(
        f"; cabin {rng.choice('abc')}; bags {rng.randint(0, 9)}; insured" for _ in range(400)
    )
    ids = np.array([ord(letter) for letter in thoughts], np.uint16)
    is_open = choices(ids, np.full(len(ids), CALL, np.uint8))
    keys = ("cabin ", "bags ")
    places = np.flatnonzero(is_open[20:]) + 20
    assert all(thoughts[:place].endswith(keys) for place in places)
    assert len(places) > 790
    assert not choices(ids, np.full(len(ids), CALL | REPLY, np.uint8)).any()
    assert not choices(ids, np.zeros(len(ids), np.uint8)).any()


def test_a_choice_counts_more_than_a_set_phrase() -> None:
    np = pytest.importorskip("numpy")
    from models.nano import batches
    from models.nano.windows import CALL, CHOICE, COPY, CUSTOMER, NAME, REPLY

    flags = np.array(
        [CALL | NAME, CALL, CALL | CHOICE, CALL | COPY | CHOICE, CALL | COPY | CHOICE,
         CALL | REPLY, CUSTOMER, CALL | COPY], np.int64,
    )  # fmt: skip
    weights = batches._weights(flags, np.array([3, 4, 5, 6, 7, 8, 9, 11]), 0.1)
    assert weights.tolist() == pytest.approx([6, 0.5, 4, 6, 2, 0.3, 0.1, 6])


def test_recorded_airline_conversations_have_the_desks_tools_and_their_own_policy(
    tmp_path: Path,
) -> None:
    spoken = [
        {"role": "system", "content": "# Another policy\n\nBe kind."},
        {"role": "user", "content": "Hi, cancel HAT123 please"},
        {"role": "assistant", "content": "Who are you?"},
        {"role": "user", "content": "mia_li_3668"},
        {"role": "assistant", "content": "Gladly."},
    ]
    rows = [{"task_id": task, "messages": spoken} for task in range(5)]
    with gzip.open(tmp_path / "gpt4o_trajectories.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    found = list(tau.lessons(tmp_path, Random(0), n_copies=1))
    assert len(found) == 2 * 4, "the task 3 is held out"
    offered = [tool.name for tool in backend.description().tools]
    for dialogue in found:
        assert [t["function"]["name"] for t in dialogue.tools] == offered
        assert dialogue.policy == "# Another policy\n\nBe kind."
        assert [m["role"] for m in dialogue.messages] == ["user", "assistant"] * 2


def test_a_step_of_the_larger_model_is_context_and_no_lesson() -> None:
    from models.nano import windows

    messages = (
        TALK[0],
        {**TALK[1], "learn": "nothing"},
        TALK[2],
        {**TALK[3], "learn": "without deferring"},
    )
    (window,) = windows.windows(Dialogue("t", (FIND,), messages), Letters(), 100_000, Random(0))
    assert _flagged(window, windows.NAME).strip("·") == "FindRestaurants"
    assert _flagged(window, windows.BARRED).strip("·") == "F"
    assert "What would you like?" not in _flagged(window, windows.CALL)
    assert '"cuisine": "Thai"' in _flagged(window, windows.CALL)


def test_a_window_keeps_the_tools_and_drops_the_oldest_turns() -> None:
    from models.nano import windows

    tools = render((), DIALOGUE.tools)
    n_max = len(tools) + 560
    found = list(windows.windows(DIALOGUE, Letters(), n_max, Random(0)))
    assert len(found) > 1
    for window in found:
        text = "".join(map(chr, window.ids))
        assert text.startswith(tools + "<|im_start|>user\n")
        assert len(text) <= n_max
    last = "".join(map(chr, found[-1].ids))
    assert "Palo Alto." not in last
    assert last.endswith('Enjoy!"}}\n</tool_call><|im_end|>\n')


# The rest needs the `train` extra.


def test_the_tokenizer_gives_back_what_it_was_given(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the train extra")
    from models.nano import tokenizer

    corpus = [
        tokenizer._plain(render(d.messages, d.tools)) for d in diet.dialogues(Random(1), 3000)
    ]
    tokenizer.VOCABULARY, before = 1200, tokenizer.VOCABULARY
    tokenizer.N_PREFIXED, before_prefixed = 60, tokenizer.N_PREFIXED
    try:
        tokenizer.write(tmp_path, tokenizer.train(corpus))
    finally:
        tokenizer.VOCABULARY, tokenizer.N_PREFIXED = before, before_prefixed
    encoder = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (render(TALK, DIALOGUE.tools), "xin chào 7KD2RM ana_ro_5127\t\n  <b>"):
        assert encoder.decode(encoder.encode(text).ids, skip_special_tokens=False) == text
    assert encoder.encode("<tool_call>").ids == [encoder.token_to_id("<tool_call>")]
    # The property that copying rests on: a name is cut alike behind a space and behind a quote.
    spoken, quoted = encoder.encode("in Brierk Vashzou").tokens, encoder.encode('"Brierk Vashzou"')
    assert spoken[-len(quoted.tokens) + 2 :] == quoted.tokens[1:-1]


def _shards(folder: Path) -> Any:
    numpy = pytest.importorskip("numpy")
    from models.nano import batches, windows

    # 200 windows of eight words each; the second half of a window repeats the first.
    rng = numpy.random.default_rng(0)
    half = rng.integers(0, 64, (200, 8))
    ids = numpy.concatenate((half, half), 1).astype(numpy.uint16).ravel()
    flags = numpy.tile(numpy.array([0] * 8 + [windows.CALL] * 8, numpy.uint8), 200)
    ends = numpy.arange(1, 201) * 16
    numpy.savez(folder / "repeat.npz", ids=ids, flags=flags, ends=ends, deferral=5)
    return batches.load(folder, {"repeat": 1.0})


def test_sources_get_the_share_of_tokens_that_the_mix_gives_them(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    from models.nano import batches, windows

    for name, lengths in (("short", (100, 300)), ("long", (700, 1500))):
        rng = numpy.random.default_rng(len(name))
        sizes = rng.integers(*lengths, 60)
        n = int(sizes.sum())
        flags = numpy.full(n, windows.CALL, numpy.uint8)
        ids = numpy.ones(n, numpy.uint16)
        numpy.savez(tmp_path / f"{name}.npz", ids=ids, flags=flags, ends=sizes.cumsum(), deferral=5)
    shards = batches.load(tmp_path, {"short": 1.0, "long": 3.0})
    n_tokens = [0, 0]
    for step in range(400):
        part = batches.batch(shards, 2048, 1.0, 0.1, (1, step))
        assert part.ids.size <= 2048
        for row, source in enumerate(part.sources[:, 0]):
            n_tokens[source] += int(part.ids[row].sum())
    assert 0.20 < n_tokens[0] / sum(n_tokens) < 0.30


def test_renamed_people_are_renamed_everywhere() -> None:
    lessons = list(airline.dialogues(4, 30))
    originals = [airline.dialogue_of(episode) for episode in airline.episodes(4, 30, "train")]
    changed = 0
    for lesson, original in zip(lessons, originals, strict=True):
        said = ""
        for ours, theirs in zip(lesson.messages, original.messages, strict=True):
            before, after = render([theirs]), render([ours])
            if ours["role"] == "assistant" and (learn := theirs.get("learn")):
                assert ours["learn"] == learn
            if before != after:
                changed += 1
            function = ours["tool_calls"][0]["function"] if ours["role"] == "assistant" else None
            user_id = function["arguments"].get("user_id") if function else None
            # What a call names was spelled so before it, whatever the people are called.
            was = theirs["tool_calls"][0]["function"]["arguments"].get("user_id") if function else 0
            if user_id is not None and user_id != was:
                assert user_id in said
            said += after
    assert changed > 30


def test_the_build_in_the_tree_reads_prompts_as_its_lessons_were_written() -> None:
    header = gguf_header.read(template.TEMPLATE_FILE.with_name("nano-q8_0.gguf"))
    assert header.text("tokenizer.chat_template") == template.TEMPLATE_FILE.read_text("utf-8")


def test_a_build_gives_back_the_checkpoint_that_it_was_made_from(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    import tokenizers

    from models.nano import restart

    build = Path(restart.__file__).with_name("nano-q8_0.gguf")
    restart.restart(build, tmp_path / "run", tmp_path / "tokenizer")
    encoder = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    text = render(TALK, DIALOGUE.tools)
    ids = encoder.encode(text).ids
    assert encoder.decode(ids, skip_special_tokens=False) == text
    assert len(ids) < len(text) / 2.5
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    from models.nano.model import Nano, Shape

    model = Nano(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.tensor([ids])))[0, :-1]
    # The network foresees most of what is forced by its format; random weights foresee nothing.
    right = (logits.argmax(-1) == torch.tensor(ids[1:])).float().mean()
    assert right > 0.4


def test_a_network_that_has_grown_says_what_it_said_before(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from models.nano import grow, train
    from models.nano.model import Nano, Shape

    shards = _shards(tmp_path)
    shape = Shape(n_vocab=64, n_layers=4, width=32, n_heads=2, n_kv_heads=1, head=16, ffn=32)
    recipe = train.Recipe(n_tokens=960, n_micros=1, chosen=0.75, warmup=2, steps=20, start="small")
    trainer = train.Trainer(recipe, shape, "cpu")
    for _ in range(2):
        trainer.take(shards)
    trainer.save(tmp_path / "last.pt")
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save(grow.grown(state, 6), tmp_path / "grown.pt")
    deeper = train.Trainer(recipe, replace(shape, n_layers=6), "cpu")
    deeper.restore(tmp_path / "grown.pt")
    assert len(deeper.model.layers) == 6
    ids = torch.arange(40)[None] % 64
    with torch.no_grad():
        before, after = (Nano.hidden(made.model, ids) for made in (trainer, deeper))
    assert torch.equal(before, after)
    # What the optimisers knew of a block went along with it.
    matrices = [(n, w) for n, w in deeper.model.named_parameters() if w.ndim == 2]
    names = [name for name, _ in matrices if "emb" not in name]
    muon = deeper.optimizers[0]
    known = [bool(muon.state[w]) for w in muon.param_groups[0]["params"]]
    assert [name.split(".")[1] for name, has in zip(names, known, strict=True) if not has] == (
        ["2"] * 7 + ["5"] * 7
    )
    deeper.take(shards)
    assert deeper.model.layers[2].mlp.down_proj.weight.abs().max() > 0


@pytest.mark.parametrize("n_new", [3, 9])
def test_a_network_neither_shrinks_nor_more_than_doubles(n_new: int) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    from models.nano import grow

    assert grow.origins(4, 8) == [(n // 2, bool(n % 2)) for n in range(8)]
    with pytest.raises(ValueError, match="cannot become"):
        grow.origins(4, n_new)


def test_where_deferring_was_not_offered_it_takes_no_part_in_the_choice(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from models.nano import batches
    from models.nano.model import Nano, Shape
    from models.nano.windows import BARRED, CALL, NAME

    np = pytest.importorskip("numpy")
    flags = np.array([0, CALL | NAME | BARRED, CALL, CALL | NAME], np.uint8)
    ids = np.array([1, 2, 3, 4], np.uint16)
    np.savez(tmp_path / "one.npz", ids=ids, flags=flags, ends=np.array([4]), deferral=9)
    part = batches.batch(batches.load(tmp_path, {"one": 1.0}), 320, 1.0, 0.1, (1, 1))
    assert part.barred[0, :3].tolist() == [9, -1, -1]
    shape = Shape(n_vocab=16, n_layers=1, width=32, n_heads=2, n_kv_heads=1, head=16, ffn=32)
    torch.manual_seed(1)
    model = Nano(shape)
    arrays = [torch.from_numpy(a[:1]) for a in (part.ids % 16, part.chosen, part.targets)]
    arrays[1], arrays[2] = arrays[1][:, :3], arrays[2][:, :3]
    barred = torch.from_numpy(part.barred[:1, :3])
    free, _ = model(*arrays, torch.full_like(barred, -1))
    told, _ = model(*arrays, barred)
    # The loss falls by just the deferral's share of the probability.
    states = model.hidden(arrays[0])[0, 0]
    p_defer = model.logits(states).softmax(-1)[9]
    assert torch.allclose(free[0, 0] + torch.log1p(-p_defer), told[0, 0], atol=1e-5)
    assert torch.equal(free[0, 1:], told[0, 1:])


def test_an_average_lies_between_its_checkpoints(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from models.nano.average import average

    for name, value, shape in (("a", 1.0, 2), ("b", 4.0, 2), ("odd", 4.0, 3)):
        state = {"model": {"w": torch.full((shape,), value)}, "shape": {"d": shape}, "step": name}
        torch.save(state, tmp_path / name)
    made = average([tmp_path / "a", tmp_path / "b"])
    assert made["model"]["w"].tolist() == [2.5, 2.5]
    assert made["step"] == "b"
    with pytest.raises(ValueError, match="different shapes"):
        average([tmp_path / "a", tmp_path / "odd"])


def test_training_learns_and_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from models.nano import train
    from models.nano.model import Shape

    shards = _shards(tmp_path)
    shape = Shape(n_vocab=64, n_layers=2, width=32, n_heads=2, n_kv_heads=1, head=16, ffn=32)
    recipe = train.Recipe(n_tokens=960, n_micros=2, chosen=0.75, warmup=2, steps=20, start="small")

    def trainer() -> train.Trainer:
        return train.Trainer(recipe, shape, "cpu")

    whole = trainer()
    losses = [whole.take(shards).mean("loss0") for _ in range(20)]
    assert losses[-1] < losses[0] - 0.1

    half = trainer()
    for _ in range(10):
        half.take(shards)
    half.save(tmp_path / "last.pt")
    resumed = trainer()
    resumed.restore(tmp_path / "last.pt")
    assert [resumed.take(shards).mean("loss0") for _ in range(10)] == losses[10:]
    for ours, theirs in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_start_of_training_can_already_copy() -> None:
    """Random tokens said twice: the second time they are foreseen, before any training."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from models.nano import induction
    from models.nano.model import Nano, Shape

    model = Nano(Shape())
    induction.copying(model, torch.Generator().manual_seed(1))
    said = torch.randint(300, 8000, (1, 60), generator=torch.Generator().manual_seed(2))
    ids = torch.cat((said, said), 1)
    with torch.no_grad():
        best = model.logits(model.hidden(ids)).argmax(-1)
    share = (best[0, 62:-1] == ids[0, 63:]).float().mean()
    assert share > 0.8


def test_a_recorded_airline_conversation_gets_other_people_and_ids_throughout() -> None:
    profile = '{"name": {"first_name": "Mia", "last_name": "Li"}, "card": "credit_card_1234567"}'
    talk = (
        user("I am mia_li_3668, Mia Li, and I fly with HAT069"),
        call("get_user_details", {"user_id": "mia_li_3668"}),
        result(profile),
        respond("Hello Mia Li, you paid with credit_card_1234567. Family?"),
    )
    changed = tau.varied(Dialogue("tau", (RESPOND_TOOL,), talk), Random(2)).messages
    user_id = changed[1]["tool_calls"][0]["function"]["arguments"]["user_id"]
    said = changed[3]["tool_calls"][0]["function"]["arguments"]["message"]
    assert user_id != "mia_li_3668"
    assert user_id in changed[0]["content"]
    text = render(changed)
    assert not any(old in text for old in ("Mia", "mia_li", "1234567", "HAT069"))
    assert "credit_card_" in said
    assert said.endswith("Family?")


def _reserved(time: str, day: str, *said: str) -> Dialogue:
    arguments = {"city": "Napa", "time": time, "date": day}
    talk = (*map(user, said), call("Reserve", arguments), result([arguments]))
    return Dialogue("test", (RESPOND_TOOL,), talk)


def test_another_time_of_day_is_the_same_in_words_and_in_calls() -> None:
    changed = 0
    for seed in range(60):
        old = _reserved("18:30", "2019-03-09", "half past 6 in the evening", "so 6:30 pm, the 9th?")
        new = retime.retimed(old, Random(seed)).messages
        arguments = new[2]["tool_calls"][0]["function"]["arguments"]
        hour, minute = map(int, arguments["time"].split(":"))
        assert f"so {hour - 12}:{minute:02} pm" in new[1]["content"]
        assert str(hour - 12) in new[0]["content"]
        assert f"the {int(arguments['date'][8:])}" in new[1]["content"]
        assert 17 <= hour < 23
        assert f'"time": "{arguments["time"]}"' in new[3]["content"]
        changed += arguments["time"] != "18:30" and arguments["date"] != "2019-03-09"
    assert changed == 60


@pytest.mark.parametrize("said", ["at noon on Friday", "in the evening, tomorrow", "soon"])
def test_times_and_days_that_are_not_spelled_out_stay(said: str) -> None:
    old = _reserved("12:00", "2019-03-08", said)
    assert retime.retimed(old, Random(1)) == old
