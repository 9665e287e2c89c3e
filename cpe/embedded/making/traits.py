"""How each drawing style of people is used: which of its options say who somebody is, and which say nothing.

The styles are DiceBear's (packages dicebear-core and dicebear-styles). Traits are told apart at 64 pixels and, for the
most part, without colour: shapes of hair, dark and light hair and skin, glasses, beards.
"""

from dataclasses import dataclass

NONE = "none"


@dataclass(frozen=True)
class Drawing:
    """One drawing style.

    Attributes:
        name: of the style in dicebear-styles.
        traits: what makes a person, trait -> the values it can have.
        hair: the option of the hair's shape.
        extras: the options behind the trait "extra": value -> (option, variant).
        colours: trait -> the options that take its value as their colour.
        changing: options that differ from picture to picture of one person, with their values.
        fixed: options that are the same in every picture of the style.
        height: which part of the height a head and shoulders take, so that all styles fill a picture alike.
    """

    name: str
    traits: dict[str, tuple[str, ...]]
    hair: str
    extras: dict[str, tuple[str, str]]
    colours: dict[str, tuple[str, ...]]
    changing: dict[str, tuple[str, ...]]
    fixed: dict[str, object]


def _drawing(
    name: str,
    *,
    hair: str,
    shapes: str,
    hair_colours: tuple[str, ...],
    hair_options: tuple[str, ...],
    skins: tuple[str, ...],
    skin_option: str,
    extras: dict[str, tuple[str, str]],
    changing: dict[str, tuple[str, ...]],
    fixed: dict[str, object],
) -> Drawing:
    return Drawing(
        name,
        traits={"hair": tuple(shapes.split()), "hair colour": hair_colours, "skin": skins, "extra": (NONE, *extras)},
        hair=hair,
        extras=extras,
        colours={"hair colour": hair_options, "skin": (skin_option,)},
        changing=changing,
        fixed=fixed,
    )


AVATAAARS_MOUTHS = ("concerned", "default", "disbelief", "eating", "grimace", "sad", "serious", "smile", "twinkle")
PEEPS_FACES = ("awe", "calm", "cheeky", "concerned", "driven", "explaining", "serious", "smile", "solemn")
CLOTHES = ("#456dff", "#6dbb58", "#f55d81", "#7555ca", "#f3b63a", "#e8e9e6", "#545454")

DRAWINGS = {
    each.name: each
    for each in (
        _drawing(
            "personas",
            hair="hair",
            shapes="bald bobBangs bunUndercut cap curlyHighTop extraLong mohawk pigtails",
            hair_colours=("#362c47", "#dee1f5", "#f27d65"),
            hair_options=("hair", "facialHair"),
            skins=("#eeb4a4", "#623d36"),
            skin_option="skin",
            extras={"glasses": ("eyes", "sunglasses"), "beard": ("facialHair", "beardMustache")},
            changing={
                "mouth": ("bigSmile", "frown", "lips", "smile", "smirk", "surprise"),
                "clothes": ("checkered", "rounded", "small", "squared"),
            },
            fixed={"eyesVariant": ["open"], "noseVariant": ["mediumRound"]},
        ),
        _drawing(
            "micah",
            hair="hair",
            shapes="dannyPhantom dougFunny fonze full mrClean mrT pixie turban",
            hair_colours=("#000000", "#f4d150", "#e05a3a"),
            hair_options=("hair",),
            skins=("#f9c9b6", "#77311d"),
            skin_option="base",
            extras={"glasses": ("glasses", "square"), "beard": ("facialHair", "beard")},
            changing={
                "mouth": ("frown", "laughing", "nervous", "pucker", "sad", "smile", "smirk", "surprised"),
                "clothes": ("collared", "crew", "open"),
            },
            fixed={
                "eyesVariant": ["eyes"],
                "eyebrowsVariant": ["up"],
                "noseVariant": ["curve"],
                "earsVariant": ["attached"],
                "earringsProbability": 0,
                "glassesColor": ["#000000"],
            },
        ),
        _drawing(
            "avataaars",
            hair="top",
            shapes="bigHair bob bun dreads01 fro hat hijab longButNotTooLong shortFlat sides straight01 winterHat03",
            hair_colours=("#2c1b18", "#ecdcbf", "#c93305"),
            hair_options=("hair", "facialHair", "hat"),
            skins=("#ffdbb4", "#614335"),
            skin_option="skin",
            extras={"glasses": ("accessories", "sunglasses"), "beard": ("facialHair", "beardMajestic")},
            changing={
                "mouth": (
                    "concerned",
                    "default",
                    "disbelief",
                    "eating",
                    "grimace",
                    "sad",
                    "serious",
                    "smile",
                    "twinkle",
                ),
                "clothes": ("blazerAndShirt", "collarAndSweater", "hoodie", "overall", "shirtCrewNeck", "shirtVNeck"),
            },
            fixed={"eyesVariant": ["default"], "eyebrowsVariant": ["default"], "accessoriesColor": ["#262e33"]},
        ),
        _drawing(
            "open-peeps",
            hair="head",
            shapes="afro bangs buns cornrows flatTopLong grayShort hatBeanie long longBangs longCurly mohawk noHair2",
            hair_colours=("#2c1b18", "#ecdcbf", "#c93305"),
            hair_options=("headContrast",),
            skins=("#ffdbb4", "#694d3d"),
            skin_option="skin",
            extras={"glasses": ("accessories", "sunglasses"), "beard": ("facialHair", "full3")},
            changing={
                "expression": (
                    "awe",
                    "calm",
                    "cheeky",
                    "concerned",
                    "driven",
                    "explaining",
                    "serious",
                    "smile",
                    "solemn",
                ),
            },
            fixed={"maskProbability": 0},
        ),
        _drawing(
            "adventurer",
            hair="hair",
            shapes="long01 long03 long09 long16 long20 short01 short04 short08 short13 short16",
            hair_colours=("#0e0e0e", "#e5d7a3", "#cb6820"),
            hair_options=("hair",),
            skins=("#f2d3b1", "#763900"),
            skin_option="skin",
            extras={"glasses": ("glasses", "variant02")},
            changing={"mouth": tuple(f"variant{n:02d}" for n in (1, 3, 5, 8, 11, 14, 18, 22, 26, 29))},
            fixed={
                "eyesVariant": ["variant12"],
                "eyebrowsVariant": ["variant05"],
                "earringsProbability": 0,
                "detailsProbability": 0,
            },
        ),
        _drawing(
            "toon-head",
            hair="hair",
            shapes="bun sideComed spiky undercut",
            hair_colours=("#2c1b18", "#d6b370", "#a5371f"),
            hair_options=("hair",),
            skins=("#f1c3a5", "#5c3829"),
            skin_option="skin",
            extras={
                "long hair": ("rearHair", "longStraight"),
                "beard": ("beard", "fullBeard"),
                "moustache": ("beard", "moustacheTwirl"),
            },
            changing={
                "mouth": ("agape", "angry", "laugh", "sad", "smile"),
                "clothes": ("dress", "openJacket", "shirt", "tShirt", "turtleNeck"),
            },
            fixed={"eyesVariant": ["wide"], "eyebrowsVariant": ["neutral"]},
        ),
    )
}
