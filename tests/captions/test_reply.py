"""utils/captions/reply.py: what models that reason, chat, mark up or refuse reply, and sound captions, which stay as they are."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from golden import REAL, SHARED
from utils.captions.formats import plain_text, read_captions
from utils.captions.reply import reply_of
from utils.captions.rewriting import one_line

CAPTION = "A person strolls along the pavement."
REASON = "Okay, the user wants another caption.\nI could say:\n1. stroll\n"

WRAPPINGS = [
    # reasoning
    "<think>\n{reason}</think>\n\n{caption}",
    "{reason}</think>\n{caption}",
    "<thinking>{reason}</thinking>{caption}",
    "<Thought>{reason}</Thought>\n{caption}",
    "<reasoning>{reason}</reasoning>\n<answer>{caption}</answer>",
    "<seed:think>{reason}</seed:think>{caption}",
    "<think>{reason}</think><think>{reason}</think>{caption}",
    "[THINK]{reason}[/THINK]{caption}",
    "◁think▷{reason}◁/think▷{caption}",
    "<|begin_of_thought|>{reason}<|end_of_thought|><|begin_of_solution|>{caption}<|end_of_solution|>",
    "<|START_THINKING|>{reason}<|END_THINKING|><|START_RESPONSE|>{caption}<|END_RESPONSE|>",
    "<|channel|>analysis<|message|>{reason}<|end|><|start|>assistant<|channel|>final<|message|>{caption}<|return|>",
    "<|channel|>final <|constrain|>json<|message|>{json}<|return|>",
    "<|channel>thought\n{reason}<channel|>{caption}<turn|>",
    "analysisWe should say stroll.assistantfinal{caption}",
    "{reason}[BEGIN FINAL RESPONSE]\n{caption}\n[END FINAL RESPONSE]",
    "Let me think.\nThe man walks.\n\nFinal answer: {caption}",
    "< think >hm</ think >{caption}",
    "Thinking...\nThe user wants it.\n...done thinking.\n\n{caption}",
    "**Thinking:** The user wants it.\nI could say stroll.\n\n**Answer:** {caption}",
    # words to the user, labels
    "Sure! Here is a rewritten caption:\n\n{caption}",
    "Here is the rewritten caption: {caption}",
    "Here's another way to say it:\n{caption}\n\nLet me know if you want another!",
    "Sure thing! {caption}",
    "Certainly!\n\n{caption}",
    "Of course, I'd be happy to help! Here is one version: {caption}",
    "Rewritten caption: {caption}",
    "**Rewritten Caption:** {caption}",
    "**Rewritten caption**\n\n{caption}",
    "### Rewritten caption\n{caption}",
    "### {caption}",
    "Output: {caption}",
    "Caption 1: {caption}\nCaption 2: Somebody walks.",
    "assistant\n{caption}",
    "Original: a man walks\nRewritten: {caption}",
    "Original caption: a man walks\n\n{caption}",
    "a man walks\n\n{caption}",
    "a man walks => {caption}",
    'Input: "A man walks." => Output: "{caption}"',
    "a man walks → {caption}",
    "=> {caption}",
    "改写：\n{caption}",
    "My rewritten caption would be: {caption}",
    "Here you go: {caption}",
    "One way to rephrase this is: {caption}",
    "Rewritten caption - {caption}",
    "Sure, I can help with that. {caption}",
    "Here is a different caption. {caption}",
    "{caption} (Note: I changed the words.)",
    "Before: a man walks\nAfter: {caption}",
    "Q: a man walks\nA: {caption}",
    "Human: more\nAssistant: {caption}",
    "Step 1: {caption}",
    # markup
    "**{caption}**",
    "**{caption}",
    "*{caption}*",
    "__{caption}__",
    "***{caption}***",
    "A **person** strolls along *the* pavement.",
    "1. {caption}",
    "1. {caption}\n2. Somebody walks.",
    "1) {caption}",
    "(1) {caption}",
    "[1] {caption}",
    "1. **{caption}**",
    "- {caption}",
    "* {caption}\n* Somebody walks.",
    "•{caption}",
    "– {caption}",
    "#1 {caption}",
    "① {caption}",
    "✅ {caption}",
    "a. {caption}",
    "1 - {caption}",
    "({caption})",
    "[{caption}]",
    "> {caption}",
    "1️⃣ {caption}",
    "---\n{caption}\n---",
    "```\n{caption}\n```",
    "```text\n{caption}\n```\nI kept it short.",
    "Here it is:\n```json\n{json}\n```",
    "`{caption}`",
    "<b>{caption}</b><br>",
    "<caption>{caption}</caption>",
    "<rewritten_caption>\n{caption}\n</rewritten_caption>",
    "\\boxed{{{caption}}}",
    # quotes
    '"{caption}"',
    "“{caption}”",
    "„{caption}“",
    "'{caption}'",
    "‘{caption}’",
    "«{caption}»",
    "« {caption} »",
    "「{caption}」",
    "``{caption}''",
    '"""{caption}"""',
    '"{caption}',
    '{caption}"',
    '"A person strolls along the pavement".',
    # JSON
    "{json}",
    "Sure, here is the JSON: {json}",
    '{{"original": "a man walks", "rewritten": "{caption}"}}',
    '{{"thought": "hm", "result": {{"captions": ["{caption}", "Somebody walks."]}}}}',
    '{{"a man walks": "{caption}"}}',
    '["{caption}", "Somebody walks."]',
    "{{'caption': '{caption}'}}",
    '{{\n  "caption": "{caption}"\n}}\nDone.',
    # special tokens
    "{caption}</s>",
    "<s>{caption}</s>",
    "{caption}<eos>",
    "{caption}<unused0>",
    "{caption}assistant\n\nHere is another one.",
    "{caption} ###",
    "{caption}[DONE]",
    "{caption}<0x0A>",
    "{caption}</answer>",
    "{caption}\\n\\nLet me know!",
    "{caption}<end_of_turn>",
    "{caption}<|im_end|>\n<|im_start|>user\nAnother",
    "<|im_start|>assistant\n{caption}<|im_end|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{caption}<|eot_id|>",
    "{caption}<|endoftext|>Human: more",
    "{caption}<｜end▁of▁sentence｜>",
    "[INST] another caption [/INST] {caption}",
    "\ufeff\x1b[1m{caption}\x1b[0m\x00",
]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_caption_is_found_in_a_reply(wrapping):
    answer = wrapping.format(caption=CAPTION, reason=REASON, json=json.dumps({"caption": CAPTION}))
    assert reply_of(answer, "a man walks").split("\n")[0] == CAPTION


NOTHING = [
    "",
    " \n",
    "<think>\nOkay, the user wants a caption.\nA person strolls",
    "<thinking>hm",
    "[THINK]hm",
    "◁think▷hm",
    "<|channel|>analysis<|message|>We should",
    "<think>hm</think>",
    "<think>hm</think><think>A person strolls along",
    "analysisWe need to rewrite it as another caption",
    "Okay, the user wants another caption. The last line says that a man walks.",
    "Let me think about how to put it.",
    "Here is the rewritten caption:",
    "[rewritten caption]",
    "Original: a man walks",
    '{"caption": null}',
    '{"caption": "A person strolls',
    '{"error": "I cannot do that"}',
    "```\n```",
    "</s>",
    "<|im_end|>",
    "I apologize, but I can't describe violence.",
    "I'm sorry, but I can’t help with that.",
    "I’m really sorry, I can't.",
    "I am unable to assist with this request.",
    "I cannot fulfill this request.",
    "I won't write that.",
    "Sorry, I can't help with this.",
    "My apologies, this is not possible.",
    "As an AI language model, I do not describe violence.",
    "As a language model, I cannot.",
    "Unfortunately, I'm not able to rewrite this caption.",
    "Sure! I'm sorry, I cannot do that.",
    "\"I'm sorry, I can't assist with that.\"",
    "**I can't help with that.**",
    "<think>hm</think>\n\nI must decline.",
    '{"caption": "I cannot describe this."}',
    "This request violates our content policy.",
    "The content cannot be rewritten.",
    "It's inappropriate to describe this.",
    "Please provide the caption you would like me to rewrite.",
    "It seems you forgot the caption.",
    "I must respectfully decline.",
    "I am programmed to be a safe assistant.",
    "This caption describes violence, which I cannot rewrite.",
    "Rewriting this caption would violate our policies.",
    "I understand your request, but I cannot help.",
    "Thank you for your request, but I can't.",
    "Oh no, I can't.",
    "Sorry about that, but I cannot continue.",
    "[Content removed]",
    "It's against my programming to write this.",
    "Is there anything else I can help with?",
    "Alright, let's tackle this.",
    "We are given a caption",
    "To rewrite this caption, I need",
    "Reasoning: the man walks",
    "很抱歉，我不能描述暴力。",
    "Lo siento, no puedo ayudar con eso.",
]


@pytest.mark.parametrize("answer", NOTHING)
def test_a_reply_without_a_caption(answer):
    assert reply_of(answer, "a man walks") == ""


SOUND = [
    CAPTION,
    "2 men fight in a shop",
    "1 man, 2 dogs: all of them run",
    "10:30 pm: a man walks to a car",
    "5 - 6 people wait",
    "2.5 litres of milk are spilled",
    "A sign reads: no entry",
    "Robbery: a man points a gun at the clerk",
    "A man in another car: the same one as before",
    "Before the crash: two cars stand at a light",
    "A man says “I can't” and leaves",
    "The policeman shouts that I can't be seen",
    '"I can\'t breathe," says the man whom the police hold down.',
    '"Stop!" shouts the policeman, and then "Run!"',
    'A sign says "stop"',
    "'Stop' says a sign",
    "The dogs' owner walks them",
    "A man's dog runs into the dog's owner",
    'It measures 6"',
    "He carries 5*3*2 boxes and an a*b*c sign",
    "The file snake_case_name is open",
    "The sign reads <EXIT> in red",
    "A tag [blurred] hides the number",
    "[Music] A man sings",
    "I see a man who walks",
    "I see a man who can't open a door",
    "The man says I can't breathe",
    "This man cannot continue his way.",
    "A video shows people. It is against the rules to park there.",
    "The content of the bag cannot be seen",
    "1 - 2 people walk",
    "a.m. traffic passes",
    "J. Smith enters the shop",
    "Two men (one in red) walk",
    "(Two) men walk (away)",
    "A man walks - slowly - to a car",
    "A final output is shown on a screen: zero",
    "Answering a phone, a man walks",
    "After the crash, two cars stand at a light",
    "Sorry sight: a burned car stands at the roadside",
    "Sure-footed goats climb a wall",
    "The image shows a man leaning against a wall",
    "As an assistant referee raises a flag, people run",
    "No answer comes from the driver",
    "It looks like the line of people moves",
    "Original paintings hang on the wall",
    "A caption on the screen says: breaking news",
    "Unable to stop, the car hits a tree",
    "The user of the cash machine is robbed",
    "Thinking hard, a man looks at a chess board",
    "-5 degrees, says the sign",
    "Ein Mann geht: „Halt!“ ruft jemand",
    "一个人在人行道上散步。",
    "A {man} walks, a [dog] runs, 3 < 5 > 2",
    "Is it a man? Yes: a man.",
]


@pytest.mark.parametrize("caption", SOUND)
def test_a_sound_caption_stays(caption):
    assert reply_of(caption, "a man walks") == caption


WORDS = [
    "a",
    "man",
    "2",
    "dogs",
    "I",
    "can't",
    "“stop”",
    '"go"',
    "says:",
    "it's",
    "10:30",
    "red,",
    "walks",
    "fights.",
    "*",
    "<5",
    "the",
    "—",
]


@given(st.lists(st.sampled_from(WORDS), min_size=3, max_size=12))
@example(["2", "men", "fight"])
def test_a_caption_of_any_words_stays(words):
    """Whatever stands in it; it begins and ends with a word."""
    caption = " ".join(["Somebody", *words, "there."])
    assert reply_of(caption) == caption
    assert reply_of(f"<think>{REASON}</think>\n\n{caption}<|im_end|>") == caption


@given(st.text(st.characters() | st.sampled_from("*_\"'`{}[]<>|#:=\n1.-")))
def test_any_reply_gives_text_that_would_stay(answer):
    found = reply_of(answer, "a man walks")
    assert found == plain_text(found)
    assert reply_of(found, "a man walks") in (found, "")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not here")
def test_real_captions_stay():
    """People's and a model's, but for a number and bold words in two of them."""
    files = [*sorted((REAL / "uca_captions").glob("*.json")), REAL / "machine_captions" / "vadtree_ucf_test.json.gz"]
    videos = [video for file in files for video in read_captions([file], 30)[0].values()]
    texts = {one_line(caption.text) for video in videos for caption in video.captions if caption.text}
    assert len(texts) > 20_000
    changed = [text for text in texts if reply_of(text) != text]
    assert all("**" in text or text.startswith("2. ") for text in changed)
    assert len(changed) <= 2


@pytest.mark.skipif(not SHARED.exists(), reason="../shared is not here")
def test_replies_that_went_wrong():
    rows = json.loads((SHARED / "cases" / "chat_answers.json").read_text(encoding="utf-8"))
    texts = [(row["content"], row["caption"]) for row in rows if isinstance(row["content"], str)]
    assert [reply_of(text, "a man walks") or None for text, _ in texts] == [caption for _, caption in texts]
