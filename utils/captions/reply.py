"""What a language model replies: which part is the caption, and what stands around it (reasoning, courtesies, markup) or in its place (a
refusal). Chat models are asked for one line and give all of this.
"""

import json
import re

from utils.captions.formats import plain_text

LONGEST = 10_000  # characters behind the reasoning that are looked at
LAYERS = 20  # things around a caption, one within the other, that are looked through
_THOUGHT = r"[\w:]{0,20}?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|deliberation)"
_LEFT, _RIGHT = r"(?:<\|?|\[|◁)\s*", r"\s*(?:\|?>|\]|▷)"
# Behind the last of these the answer begins: </think>, [/THINK], <|end_of_thought|>, <|channel|>final<|message|>, [BEGIN FINAL RESPONSE] …
ANSWER_BEGINS = re.compile(
    rf"{_LEFT}(?:/\s*|end[_ ](?:of[_ ])?){_THOUGHT}{_RIGHT}|<channel\|>|\.\.\.done thinking\.?"
    r"|<\|channel\|>\s*final(?:\s*<\|constrain\|>\s*\w+)?\s*(?:<\|message\|>)?|\bassistantfinal|\[/INST\]"
    rf"|{_LEFT}(?:begin|start)[_ ](?:of[_ ])?(?:final[_ ])?(?:response|answer|box|solution|output){_RIGHT}",
    re.IGNORECASE,
)
REASONING = re.compile(  # what is left of it behind the last of those never ended
    rf"<\|?\s*(?:(?:begin|start)[_ ](?:of[_ ])?)?{_THOUGHT}\s*\|?>|◁\s*think|\[\s*(?:begin[_ ])?think(?:ing)?\s*\]"
    r"|<\|channel\|?>\s*(?:analysis|commentary|thought)|^\s*(?:assistant)?analysis(?=[A-Z])",
    re.IGNORECASE,
)
_ALOUD = (  # reasoning without any mark
    r"(?:(?:okay|ok|alright|hmm+|so|well|now|first|wait|got it)\b[,.…! ]*)*(?:hmm+\b|thinking process|let(?: me|'s)\b"
    r"|(?:the )?user(?: (?:wants?|ask(?:s|ed)|is asking|has|provide[sd]|gave|needs|says|would)\b|$)"
    r"|(?:we|i) (?:need|have|(?:are|am) (?:asked|going)) to\b|(?:we're|we are|i'm|i am) (?:given|asked|going to)\b"
    r"|i'll (?:think|start|try|rewrite|rephrase)\b|to (?:rewrite|rephrase|paraphrase|reword) (?:this|the)\b)"
)
_REFUSAL = (  # how one begins
    r"(?:i'm|i am|we're|we are)(?: \w+)? sorry\b",
    r"(?:i'm|i am|we are)(?: just)? (?:afraid|unable|not (?:able|allowed|permitted)|an? ai|programmed)\b",
    r"(?:i|we) (?:can'?t|cannot|can not|couldn'?t|could not|won'?t|will not|would rather not|prefer not|regret)\b|i'd rather not\b",
    r"(?:i|we) (?:(?:must|have to|need to) )?(?:(?:respectfully|politely) )?(?:decline|refuse)\b",
    r"(?:i|we) (?:don'?t|do not|didn'?t) (?:see|have|feel|think|understand|know|provide|create|generate)\b",
    r"(?:i|i'm|we|thank you|thanks|oh no|sorry|(?:this|the|your)(?: \w+)? (?:caption|content|request|prompt|topic)\b.{0,60}\bi)\b"
    r".{0,90}\b(?:can't|cannot|won't|can|unable to|not able to)"
    r"(?: (?:help|assist|rewrite|comply|provide|create|generate|continue|fulfil|support|do (?:this|that|so))|\W*$)",
    r"sorry\b[,.!:–—-]*\s*(?:$|(?:but|i|i'm|for|can|cannot|can't|no|this|that|unable)\b)",
    r"(?:my |our )?apologies\b|(?:i|we) (?:do )?apologi[sz]e\b",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b|as an assistant,? i\b",
    r"unable to (?:rewrite|comply|process|generate)\b",
    r"(?:this|the|your|rewriting (?:this|that|the)) (?:content|request|prompt|topic|caption|input)\b.{0,40}\b(?:violat\w+"
    r"|inappropriate|harmful|not allowed|flagged|against (?:my|our|the) (?:\w+ )?(?:guidelines|polic\w+|rules)"
    r"|(?:cannot|can't) be (?:rewritten|processed))",
    r"it(?:'s| is| would be) (?:(?:not |in)appropriate|not okay)\b",
    r"(?:it(?:'s| is) )?against (?:my|our) (?:guidelines|polic\w+|program\w+|rules)",
    r"(?:it|there) (?:seems?|looks?|appears?) (?:like |that |to be )*(?:you|(?:no|the) (?:caption|input))\b",
    r"there (?:is|was) no (?:caption|input)\b|is there anything else\b",
    r"(?:please|could you|can you|would you)(?: please)? (?:provide|share|give|clarify|note)\b|how (?:can|may) i (?:help|assist)\b",
    r"no (?:caption|rewrite|rewriting|answer|response)\b(?:\W*$| (?:available|provided|given|possible))|content (?:warning|removed)\b",
    r"je suis d[ée]sol|lo siento|es tut mir leid|entschuldigung|desculp|извините|抱歉|很抱歉|对不起|我无法|我不能|申し訳",
)
_NO_CAPTION = re.compile(
    rf"(?:(?:oh|hi|hello|unfortunately|regrettably|note)\b[,.:!]*\s+)*(?:{'|'.join(_REFUSAL)})|{_ALOUD}", re.IGNORECASE
)
_WRAPPED = re.compile(
    r"<((?:\w+_)?(?:answer|response|output|captions?|rewrit\w*|rewrote|rephras\w*|paraphras\w*|result|final\w*|sentence|text)(?:_\w+)?)>"
    r"(.+?)(?:</\1>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\w*\{)?([^{}]+)")
_FENCED = re.compile(r"(`{3,}|~{3,})(?:[\w+-]*[ \t]*\n|json\b)?(.*?)(?:\1|\Z)", re.DOTALL)
_FILLER = re.compile(r"<(?:unk|pad|mask|bos|s|cls|sep)>|\[(?:UNK|PAD|MASK|CLS|SEP|BOS)\]")
_TURN = re.compile(  # special tokens, at which a turn begins or ends
    r"(?:<\|(?:im_start|start_header_id|header_start|start|turn)\|?>|<start_of_turn>)[ \t]*(?:assistant|model|user|system)?"
    r"|</[a-z_]{1,40}>\s*\Z|<(?:unused\d+|0x[\dA-F]{2})>|<\|[^<>|\n]{1,40}\|?>|<[a-z_]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|</s>|<(?:eos|eot|eod|eou|endoftext|end|stop)>|<[a-z]+(?:_[a-z\d]+)+>"
    r"|\[/?INST\]|<</?SYS>>|\[(?:EOS|DONE|END[\w ]*)\]|(?<=[.!?])(?:assistant|user)\b|\s+#{2,}\s*\Z",
    re.IGNORECASE,
)
_HTML = re.compile(r"</?(?:b|i|u|em|strong|span|font|code|q|h[1-6]|ul|ol|center|blockquote|html|body)(?:\s[^<>]*)?>", re.IGNORECASE)
_HTML_LINE = re.compile(r"</?(?:br|p|li|div)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_JSON = re.compile(r"\{\s*[\"'][\w -]+[\"']\s*:|\[\s*(?:[\"{]|\[\s*[\"{])")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]+)(?<=\S)\1(?![\w*])|(?<!\w)(_{1,3})(?=[^\s_])([^_\n]+)(?<=\S)\3(?!\w)")
_BULLET = re.compile(
    r"(?:\(?\d{1,2}[.)\]]|\[\d{1,2}\]|\d{1,2}\ufe0f?\u20e3|\(?[a-zA-Z]\)|(?:[a-c]|i{1,3})\.|#{1,6}|#\d{1,2}[.):]?|[-+*>]"
    r"|\d{1,2}(?::|\s+[-–—])(?=\s+[A-Z\"“*]))\s+|[->](?=[A-Z])|[①-⑳➡✅☑👉🔹🔸]\ufe0f?\s*|[•‣◦▪▫●○■□▶►➤➢✓✔·–—]\s*"
)
_COURTESY = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|great|got it|no problem)\s*[!.]+\s+"
    r"|(?:sure|certainly|of course|absolutely),\s+",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "”": "”", "„": "“”", "'": "'", "‘": "’", "‚": "‘’", "«": "»", "»": "«", "‹": "›", "›": "‹",
           "「": "」", "『": "』", "《": "》", "＂": "＂", "`": "`'"}  # fmt: skip
_ARROW = re.compile(r"\s*(?:=>|⇒|→|->)\s*")

# A label, "Sure! Here is the rewritten caption:", consists of these words, and not of the first ones alone.
_AROUND = (
    "a an the my your our one two another new other is are this these that it of for in with words as below following last "
    "given you you'd requested would should phrase way ways say put reads it's that's suggest hope b c "
    "requested asked same meaning style english and or i i'd i'll i've we be to can could might try let me help go different "
    "differently possible final short concise improved image video sentence text line very simply just using how about what write json "
    "object format"
)
_COURTEOUS = (
    "here here's ai bot chatbot helps sure certainly okay ok course absolutely alright great thanks thank happy glad yes assistant model"
)
_TITLE = (
    "caption captions rewritten rewrite rewriting rewrites reworded reword rewording rephrased rephrase rephrasing paraphrased paraphrase "
    "paraphrasing revised version variation variant description output answer response result option alternative alternatively "
    "continuation follows after step suggestion suggestions"
)
_SOURCE = re.compile(
    r"(?:the )?(?:original|input|source)(?: (?:image |video )?(?:caption|version|sentence|text|description|line))?\s*[:：]"
    r"|(?:before|old)[:：]",
    re.IGNORECASE,
)
_PRELUDE = re.compile(  # of a model that labels what it thinks, or was asked
    r"\W{0,9}(?:thinking|reasoning|thoughts?|analysis|explanation|rationale|question|human|user|q)\W{0,3}[:：]", re.IGNORECASE
)
_ANSWER = re.compile(
    r"^[^\w\n]{0,9}(?:(?:\w+ )?(?:answer|caption|output|response|version)|rewritten|after|assistant|ai|a)\W{0,3}[:：][\s*_]*(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
_REMARK = re.compile(r"\s*\((?:note\b|rewritten|rephrased|paraphrased|reworded|\d+ words)[^()]*\)$", re.IGNORECASE)
_FINALLY = re.compile(
    r"^[^\w\n]{0,9}(?:(?:my|the|so|therefore|thus)\b[, ]*)*(?:final (?:answer|caption|response|output|version|rewrite)"
    r"|(?:rewritten|rephrased|paraphrased|reworded|revised|new)(?: (?:image |video )?(?:caption|version|sentence|description|text|line))?)"
    r"[\s*_\"”]{0,3}[:：][\s*_]*(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
_UNWANTED = re.compile(r"orig|sourc|input|prompt|think|thought|reason|expla|note|comment|error|refus|lang", re.IGNORECASE)
_WANTED = re.compile(r"caption|rewrit|rephras|paraphras|output|answer|response|result|text|descri|sentence|content", re.IGNORECASE)


def reply_of(answer: str, shown: str = "") -> str:
    """The caption in an answer, of as many lines as it has; "" where there is none: nothing, a refusal, reasoning that never ended.

    Passed over are reasoning, words to the user and labels ("Sure! Here is a caption:"), the caption that was `shown` and its `=>`, bullets
    and numbers, emphasis, quotation marks around all, code fences, JSON, special tokens. A colon, quote, number or tag that is part of a
    caption stays.
    """
    text = "\n".join(ANSWER_BEGINS.split(plain_text(answer))[-1][:LONGEST].splitlines())
    if REASONING.search(text):
        return ""
    for pattern, group in ((_WRAPPED, 2), (_BOXED, 1), (_FENCED, 2)):
        if (found := pattern.search(text)) and found[group].strip():
            text = found[group]
    text = next((part for part in _TURN.split(_FILLER.sub(" ", text)) if part.strip()), "")
    text = re.sub(r"\\n(?![a-z])", "\n", _HTML_LINE.sub("\n", _HTML.sub("", text)))
    if found := _JSON.search(text):
        text = _from_json(text[found.start() :]) or text
    elif _PRELUDE.match(text):
        text = text[found.end() :] if (found := _ANSWER.search(text)) else ""
    elif found := _FINALLY.search(text):
        text = text[found.end() :]
    for _ in range(LAYERS):
        text, before = _without_a_layer(text, shown).strip(" \n`"), text
        if text == before:
            break
    else:
        return ""
    label = text.endswith((":", "：")) and _is_label(text[:-1])
    return "" if label or _NO_CAPTION.match(text.replace("’", "'").replace("ʼ", "'")) else text


def _without_a_layer(text: str, shown: str) -> str:
    """`text` without one of the things that stand around a caption; as it is where there is none."""
    if _JSON.match(text):
        return _from_json(text)
    first, line_end, rest = text.partition("\n")
    bare = first.strip("*_#> ")
    if rest.strip() and (
        bare.endswith((":", "：")) or not any(map(str.isalnum, bare)) or _is_label(bare) or bare in (shown, f"{shown} =>")
    ):
        return rest
    if _SOURCE.match(bare) and not _ARROW.search(bare):
        return rest
    rest = line_end + rest
    for mark in (r"[:：]", r"\s[-–—]\s", r"[.!]\s"):
        if (found := re.match(rf"(.{{0,90}}?){mark}\s*(?=\S)", first)) and _is_label(found[1]):
            return first[found.end() :] + rest
    if (found := _ARROW.search(first)) and _same(first[: found.start()], shown):
        return first[found.end() :] + rest
    if (plain := _EMPHASIS.sub(lambda found: found[2] or found[4], first)) != first:
        return plain + rest
    if first.count("**") == 1:  # the other was cut off, or went with a label
        first = first.removeprefix("**").removesuffix("**")
    for pattern in (_BULLET, _COURTESY):
        if (found := pattern.match(first)) and found.end() < len(first):
            return first[found.end() :] + rest
    if first[:1] + first[-1:] in ("[]", "()") and first.count(first[-1]) == 1:
        return "" if _is_label(first[1:-1]) else first[1:-1] + rest
    return _unquoted(_REMARK.sub("", first).rstrip()) + rest


def _is_label(text: str) -> bool:
    """Whether it speaks of a caption, and says nothing else."""
    if not re.fullmatch(r"[\w\s'’!,.()#*&/-]+", text):
        return False
    words = set(re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower().replace("’", "'")))
    said = {*_COURTEOUS.split(), *_TITLE.split()}
    return bool(words & said) and words <= {*_AROUND.split(), *said}


def _same(text: str, shown: str) -> bool:
    """Whether it is the caption that was shown, a label, or nothing."""
    letters, expected = ("".join(filter(str.isalnum, part)).casefold() for part in (text.rpartition(":")[2], shown))
    return letters in ("", expected) or _is_label(text) or text.strip().lower() == "input"


def _unquoted(line: str) -> str:
    """A line without the quotation marks around all of it, or the single one at an end whose other was cut off."""
    if line.startswith("``") and line.endswith("''"):
        return line[2:-2].strip()
    stop = line[-1] if line[-1:] in (".", "!", ",") and len(line) > 2 else ""
    inner, last = line[1 : -1 - len(stop)], line[: len(line) - len(stop)][-1:]
    if len(line) > 2 and last in _QUOTES.get(line[0], ()) and last:
        within = re.sub(r"(?<=\w)['’](?=\w)", "", inner)  # apostrophes
        at = min((at for mark in {line[0], last} if (at := within.find(mark)) >= 0), default=-1)
        if (
            at < 0
            or (at == 0 and within[-1] in _QUOTES.get(within[0], ""))
            or (at > 0 and within[at - 1].isspace() and not within[at + 1 : at + 2].isspace())
        ):  # another quotation begins within
            return inner.strip() + (stop if inner.rstrip()[-1:].isalnum() else "")
    marks = [mark for mark in line if mark in '"“”„＂«»']
    if len(marks) == 1 and not re.search(r"\d.$", line):  # 6" of rain
        return line.strip(marks[0]).strip()
    return line


def _from_json(text: str) -> str:
    """The caption in a JSON object or list, which may have single quotes; "" where it has none, or is cut off."""
    for candidate in (text, text.replace("'", '"')):
        try:
            return _caption_in(json.JSONDecoder(strict=False).raw_decode(candidate)[0])
        except (ValueError, RecursionError):
            continue
    return ""


def _caption_in(value) -> str:
    if isinstance(value, dict):
        fitting = {key: part for key, part in value.items() if not _UNWANTED.search(key)}
        value = [part for key, part in fitting.items() if _WANTED.search(key)] + list(fitting.values())
    if isinstance(value, list):
        return next((found for part in value if (found := _caption_in(part))), "")
    return plain_text(value) if isinstance(value, str) else ""
