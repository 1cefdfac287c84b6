"""The Demo corpus' signs: what each means in two languages, how it looks, and what no skeleton shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

HANDSHAPES = {
    "flat": "flat hand",
    "spread": "spread hand",
    "fist": "fist",
    "point": "pointing hand",
    "vee": "v-hand",
    "three": "three-finger hand",
    "thumb": "thumb-up hand",
    "horn": "y-hand",
    "ring": "ring hand",
    "claw": "claw hand",
    "ell": "l-hand",
    "hook": "hooked hand",
}
MOUTHS = {
    "closed": "mouth closed",
    "open": "mouth open",
    "rounded": "lips rounded",
    "spread": "lips spread",
    "puffed": "cheeks puffed",
}


@dataclass(frozen=True)
class Form:
    """All that a skeleton shows of a sign. `hands`: one, both (mirrored) or base (left hand still)."""

    handshape: str
    start: str
    end: str
    movement: str
    hands: str


@dataclass(frozen=True)
class Sign:
    """A sign: its gloss, its word (alone) and phrase (in a sentence) per language, its form, and the rest.

    `palm` and `mouth` appear in descriptions only; `measure` is the Chinese classifier of a noun.
    """

    role: str
    gloss: str
    english: str
    chinese: str
    form: Form
    palm: str
    mouth: str
    english_phrase: str
    chinese_phrase: str
    measure: str


def _sign(
    role: str,
    gloss: str,
    english: str,
    chinese: str,
    form: str,
    unseen: str,
    phrase: str = "",
    chinese_phrase: str = "",
    measure: str = "",
) -> Sign:
    """A row of the tables: `form` is "handshape start[>end] movement hands", `unseen` "palm mouth"."""
    handshape, place, movement, hands = form.split()
    start, _, end = place.partition(">")
    palm, mouth = unseen.split()
    shape = Form(handshape, start, end or start, movement, hands)
    return Sign(
        role,
        gloss,
        english,
        chinese,
        shape,
        palm,
        mouth,
        phrase or english,
        chinese_phrase or chinese,
        measure,
    )


def _times() -> Iterator[Sign]:
    yield _sign("time", "TODAY", "today", "今天", "flat front>waist straight both", "up closed")
    yield _sign("time", "TOMORROW", "tomorrow", "明天", "thumb cheek>front arc one", "in open")
    yield _sign("time", "MONDAY", "Monday", "星期一", "ring side tap one", "out closed", "on Monday")
    yield _sign("time", "FRIDAY", "Friday", "星期五", "vee forehead>shoulder arc one", "in spread", "on Friday")
    yield _sign("time", "MORNING", "morning", "早上", "flat waist>chest arc base", "up closed", "in the morning")
    yield _sign("time", "EVENING", "evening", "晚上", "flat waist>chest arc base", "down closed", "in the evening")
    yield _sign("time", "SUMMER", "summer", "夏天", "hook forehead>cheek straight one", "down open", "in summer")
    yield _sign("time", "WINTER", "winter", "冬天", "fist chest wiggle both", "in puffed", "in winter")


def _places() -> Iterator[Sign]:
    yield _sign("place", "SCHOOL", "school", "学校", "flat front tap base", "down open", "at school", "在学校")
    yield _sign(
        "place",
        "MARKET",
        "market",
        "市场",
        "claw front>side arc both",
        "down closed",
        "at the market",
        "在市场",
    )
    yield _sign(
        "place",
        "HOSPITAL",
        "hospital",
        "医院",
        "vee shoulder>chest straight one",
        "in closed",
        "in the hospital",
        "在医院",
    )
    yield _sign(
        "place",
        "STATION",
        "station",
        "车站",
        "three front>side straight base",
        "out open",
        "at the station",
        "在车站",
    )
    yield _sign("place", "GARDEN", "garden", "花园", "spread side circle one", "up rounded", "in the garden", "在花园")
    yield _sign("place", "PARK", "park", "公园", "spread side circle one", "up spread", "in the park", "在公园")
    yield _sign("place", "CITY", "city", "城里", "flat chest>side arc both", "in spread", "in the city", "在城里")
    yield _sign(
        "place",
        "VILLAGE",
        "village",
        "村里",
        "claw waist>chest straight one",
        "in rounded",
        "in the village",
        "在村里",
    )


def _subjects() -> Iterator[Sign]:
    yield _sign("subject", "MOTHER", "mother", "妈妈", "spread chin tap one", "in closed")
    yield _sign("subject", "FATHER", "father", "爸爸", "spread forehead tap one", "in open")
    yield _sign("subject", "GRANDMOTHER", "grandmother", "奶奶", "claw chin>front arc one", "down open")
    yield _sign("subject", "GRANDFATHER", "grandfather", "爷爷", "spread forehead>front arc one", "down closed")
    yield _sign("subject", "BROTHER", "brother", "哥哥", "ell forehead>chest straight one", "in closed")
    yield _sign("subject", "SISTER", "sister", "姐姐", "ell forehead>chest straight one", "out closed")
    yield _sign("subject", "TEACHER", "teacher", "老师", "ring forehead>side straight both", "out open", "the teacher")
    yield _sign(
        "subject",
        "STUDENT",
        "student",
        "学生",
        "claw waist>forehead straight base",
        "up closed",
        "the student",
    )
    yield _sign("subject", "DOCTOR", "doctor", "医生", "vee waist tap base", "down spread", "the doctor")
    yield _sign("subject", "NURSE", "nurse", "护士", "vee waist tap base", "down rounded", "the nurse")
    yield _sign("subject", "FRIEND", "friend", "朋友", "hook front circle both", "up spread", "my friend", "我的朋友")
    yield _sign("subject", "CHILD", "child", "孩子", "flat waist tap one", "down closed", "the child")
    yield _sign("subject", "WHO", "who", "谁", "point chin circle one", "in rounded")


def _adverbs() -> Iterator[Sign]:
    yield _sign("adverb", "ALWAYS", "always", "总是", "point side circle one", "up open")
    yield _sign("adverb", "NEVER", "never", "从不", "point side circle one", "up puffed")
    yield _sign("adverb", "OFTEN", "often", "经常", "hook chest>front arc base", "down closed")
    yield _sign("adverb", "STILL", "still", "还", "horn chest>front straight both", "down spread")
    yield _sign("adverb", "ONLY", "only", "只", "point shoulder>side straight one", "out rounded")
    yield _sign("adverb", "ALSO", "also", "也", "point chest tap both", "down open")


def _verbs() -> Iterator[Sign]:
    yield _sign("verb", "BUY", "buy", "买", "flat waist>front straight base", "up closed", "buys")
    yield _sign("verb", "SELL", "sell", "卖", "flat waist>front straight base", "down closed", "sells")
    yield _sign("verb", "FIND", "find", "找到", "ring waist>chest arc one", "out open", "finds")
    yield _sign("verb", "LOSE", "lose", "丢掉", "ring waist>chest arc one", "out puffed", "loses")
    yield _sign("verb", "BRING", "bring", "带来", "flat side>front arc both", "up open", "brings")
    yield _sign("verb", "WANT", "want", "想要", "claw front>chest straight both", "up closed", "wants")
    yield _sign("verb", "SEE", "see", "看见", "vee cheek>side straight one", "in closed", "sees")
    yield _sign("verb", "LIKE", "like", "喜欢", "thumb chin>chest straight one", "in spread", "likes")
    yield _sign("verb", "DRAW", "draw", "画", "point shoulder>waist wiggle base", "in closed", "draws")
    yield _sign("verb", "NEED", "need", "需要", "hook chest>waist straight one", "down rounded", "needs")


def _numbers() -> Iterator[Sign]:
    yield _sign("number", "TWO", "two", "二", "vee side tap one", "out closed", chinese_phrase="两")
    yield _sign("number", "THREE", "three", "三", "three side>front arc one", "in closed")
    yield _sign("number", "FOUR", "four", "四", "spread shoulder tap one", "out open")
    yield _sign("number", "FIVE", "five", "五", "spread side wiggle one", "in spread")
    yield _sign("number", "SIX", "six", "六", "horn side>shoulder straight one", "in rounded")
    yield _sign("number", "SEVEN", "seven", "七", "ell shoulder circle one", "out closed")
    yield _sign("number", "EIGHT", "eight", "八", "three side>front arc one", "out closed")
    yield _sign("number", "NINE", "nine", "九", "horn side>shoulder straight one", "in open")


def _adjectives() -> Iterator[Sign]:
    yield _sign("adjective", "RED", "red", "红", "point cheek>shoulder arc one", "in spread")
    yield _sign("adjective", "BLUE", "blue", "蓝", "point cheek>shoulder arc one", "in rounded")
    yield _sign("adjective", "BLACK", "black", "黑", "fist forehead>side arc one", "down open")
    yield _sign("adjective", "WHITE", "white", "白", "fist forehead>side arc one", "up open")
    yield _sign("adjective", "GREEN", "green", "绿", "ell front wiggle base", "out spread")
    yield _sign("adjective", "YELLOW", "yellow", "黄", "horn forehead wiggle one", "out rounded")
    yield _sign("adjective", "BIG", "big", "大", "claw chest>side straight both", "in puffed")
    yield _sign("adjective", "SMALL", "small", "小", "ell side>front straight both", "in rounded")
    yield _sign("adjective", "NEW", "new", "新", "flat chest circle base", "up open")
    yield _sign("adjective", "OLD", "old", "旧", "fist chin>waist straight one", "in closed")


def _objects() -> Iterator[Sign]:
    yield _sign("object", "APPLE", "apple", "苹果", "hook cheek wiggle one", "down closed", "apples", measure="个")
    yield _sign("object", "PEAR", "pear", "梨", "hook cheek wiggle one", "up closed", "pears", measure="个")
    yield _sign("object", "CUP", "cup", "杯子", "claw waist circle base", "in rounded", "cups", measure="个")
    yield _sign("object", "PLATE", "plate", "盘子", "claw waist circle base", "in spread", "plates", measure="个")
    yield _sign("object", "BOOK", "book", "书", "flat front wiggle both", "up rounded", "books", measure="本")
    yield _sign("object", "LETTER", "letter", "信", "flat front wiggle both", "down rounded", "letters", measure="封")
    yield _sign("object", "CHAIR", "chair", "椅子", "vee front tap both", "down closed", "chairs", measure="把")
    yield _sign(
        "object",
        "TABLE",
        "table",
        "桌子",
        "spread waist>side straight both",
        "down open",
        "tables",
        measure="张",
    )
    yield _sign("object", "HAT", "hat", "帽子", "flat forehead wiggle both", "down open", "hats", measure="顶")
    yield _sign(
        "object",
        "COAT",
        "coat",
        "外套",
        "thumb shoulder>waist straight both",
        "in rounded",
        "coats",
        measure="件",
    )
    yield _sign("object", "CAR", "car", "汽车", "fist front circle both", "in closed", "cars", measure="辆")
    yield _sign(
        "object",
        "BICYCLE",
        "bicycle",
        "自行车",
        "hook waist circle both",
        "down closed",
        "bicycles",
        measure="辆",
    )
    yield _sign("object", "FLOWER", "flower", "花", "ring chin>cheek arc one", "in spread", "flowers", measure="朵")
    yield _sign("object", "LAMP", "lamp", "灯", "claw forehead tap one", "down rounded", "lamps", measure="盏")


def _tags() -> Iterator[Sign]:
    yield _sign("tag", "RIGHT", "right", "对吗", "horn front wiggle one", "out open")
    yield _sign("tag", "REALLY", "really", "真的吗", "horn front wiggle one", "in open")


SIGNS: tuple[Sign, ...] = (
    *_times(),
    *_places(),
    *_subjects(),
    *_adverbs(),
    *_verbs(),
    *_numbers(),
    *_adjectives(),
    *_objects(),
    *_tags(),
)
ROLES: tuple[str, ...] = tuple(dict.fromkeys(sign.role for sign in SIGNS))
BY_ROLE: dict[str, tuple[Sign, ...]] = {role: tuple(sign for sign in SIGNS if sign.role == role) for role in ROLES}


def look_alikes() -> tuple[tuple[Sign, Sign], ...]:
    """The pairs that a skeleton cannot tell apart: same form and role, another palm or mouth."""
    return tuple((a, b) for a, b in combinations(SIGNS, 2) if a.form == b.form)
