"""The words on packages: nutrients in nine languages, ingredients, brands, and what other tables say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Language:
    """What a nutrition table says in one language; `nutrients` in the order of EU law, indented ones start with "
    "`  `."""

    title: str
    per_100: str
    per_portion: str
    nutrients: tuple[str, ...]
    ingredients: str
    words: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _language(title: str, per_100: str, portion: str, nutrients: str, ingredients: str, words: str) -> Language:
    return Language(title, per_100, portion, tuple(nutrients.split("|")), ingredients, tuple(words.split()))


LANGUAGES: dict[str, Language] = {
    "en": _language(
        "Nutrition", "per 100 g", "per portion",
        "Energy|Fat|  of which saturates|Carbohydrate|  of which sugars|Fibre|Protein|Salt|Calcium|Vitamin C|"
        "Iron|Magnesium",
        "Ingredients:",
        "wheat flour, sugar, palm oil, glucose syrup, cocoa mass, skimmed milk powder, emulsifier: lecithin (soya), "
        "salt, raising agents, flavouring. May contain traces of nuts. Store in a cool dry place. Best before: see lid",
    ),
    "fr": _language(
        "Valeurs nutritionnelles", "pour 100 g", "par portion",
        "Énergie|Matières grasses|  dont acides gras saturés|Glucides|  dont sucres|Fibres alimentaires|"
        "Protéines|Sel|Calcium|"
        "Vitamine C|Fer|Magnésium",
        "Ingrédients :",
        "farine de blé, sucre, huile de tournesol, sirop de glucose, poudre de lait écrémé, émulsifiant : "
        "lécithines, sel, "
        "arôme naturel. Peut contenir des traces de fruits à coque. À conserver au sec. À consommer de "
        "préférence avant le",
    ),
    "de": _language(
        "Nährwerte", "je 100 g", "je Portion",
        "Energie|Fett|  davon gesättigte Fettsäuren|Kohlenhydrate|  davon Zucker|Ballaststoffe|Eiweiß|Salz|"
        "Calcium|Vitamin C|"
        "Eisen|Magnesium",
        "Zutaten:",
        "Weizenmehl, Zucker, Palmöl, Glukosesirup, Kakaomasse, Magermilchpulver, Emulgator: Lecithine (Soja), "
        "Speisesalz, "
        "Backtriebmittel. Kann Spuren von Nüssen enthalten. Kühl und trocken lagern. Mindestens haltbar bis: "
        "siehe Deckel",
    ),
    "es": _language(
        "Información nutricional", "por 100 g", "por ración",
        "Valor energético|Grasas|  de las cuales saturadas|Hidratos de carbono|  de los cuales azúcares|Fibra|"
        "Proteínas|Sal|"
        "Calcio|Vitamina C|Hierro|Magnesio",
        "Ingredientes:",
        "harina de trigo, azúcar, aceite de girasol, jarabe de glucosa, leche en polvo, emulgente, sal, aroma. "
        "Puede contener "
        "trazas de frutos de cáscara. Conservar en lugar fresco y seco. Consumir preferentemente antes de",
    ),
    "it": _language(
        "Dichiarazione nutrizionale", "per 100 g", "per porzione",
        "Energia|Grassi|  di cui acidi grassi saturi|Carboidrati|  di cui zuccheri|Fibre|Proteine|Sale|Calcio|"
        "Vitamina C|Ferro|"
        "Magnesio",
        "Ingredienti:",
        "farina di frumento, zucchero, olio di girasole, sciroppo di glucosio, latte scremato in polvere, sale, "
        "aromi. Può "
        "contenere tracce di frutta a guscio. Conservare in luogo fresco e asciutto. Da consumarsi "
        "preferibilmente entro",
    ),
    "pl": _language(
        "Wartość odżywcza", "w 100 g", "w porcji",
        "Wartość energetyczna|Tłuszcz|  w tym kwasy nasycone|Węglowodany|  w tym cukry|Błonnik|Białko|Sól|Wapń|"
        "Witamina C|Żelazo|"
        "Magnez",
        "Składniki:",
        "mąka pszenna, cukier, olej palmowy, syrop glukozowy, mleko w proszku, emulgator, sól, aromat. Może "
        "zawierać orzechy. "
        "Przechowywać w suchym i chłodnym miejscu. Najlepiej spożyć przed",
    ),
    "nl": _language(
        "Voedingswaarde", "per 100 g", "per portie",
        "Energie|Vetten|  waarvan verzadigd|Koolhydraten|  waarvan suikers|Vezels|Eiwitten|Zout|Calcium|Vitamine "
        "C|IJzer|Magnesium",
        "Ingrediënten:",
        "tarwebloem, suiker, palmolie, glucosestroop, magere melkpoeder, emulgator, zout, aroma. Kan sporen van "
        "noten bevatten. "
        "Koel en droog bewaren. Ten minste houdbaar tot",
    ),
    "pt": _language(
        "Declaração nutricional", "por 100 g", "por dose",
        "Energia|Lípidos|  dos quais saturados|Hidratos de carbono|  dos quais açúcares|Fibra|Proteínas|Sal|"
        "Cálcio|Vitamina C|"
        "Ferro|Magnésio",
        "Ingredientes:",
        "farinha de trigo, açúcar, óleo de girassol, xarope de glucose, leite em pó, emulsionante, sal, aroma. "
        "Pode conter "
        "vestígios de frutos de casca rija. Conservar em local fresco e seco. Consumir de preferência antes de",
    ),
    "sv": _language(
        "Näringsvärde", "per 100 g", "per portion",
        "Energi|Fett|  varav mättat fett|Kolhydrat|  varav sockerarter|Fiber|Protein|Salt|Kalcium|Vitamin C|Järn|"
        "Magnesium",
        "Ingredienser:",
        "vetemjöl, socker, palmolja, glukossirap, skummjölkspulver, emulgeringsmedel, salt, arom. Kan innehålla "
        "spår av nötter. "
        "Förvaras torrt och svalt. Bäst före: se förpackningen",
    ),
}  # fmt: skip

US_ROWS: tuple[tuple[str, bool], ...] = (
    ("Total Fat", True), ("  Saturated Fat", False), ("  Trans Fat", False), ("Cholesterol", True), ("Sodium", True),
    ("Total Carbohydrate", True), ("  Dietary Fiber", False), ("  Total Sugars", False),
    ("    Includes Added Sugars", False), ("Protein", True),
)  # fmt: skip
US_VITAMINS = ("Vitamin D", "Calcium", "Iron", "Potassium", "Vitamin A", "Vitamin C")
US_FOOTNOTE = _words(
    "*The % Daily Value (DV) tells you how much a nutrient in a serving of food contributes to a daily diet. "
    "2,000 calories a day is used for general nutrition advice."
)

BRANDS = _words(
    "Nordal Casavita Brillo Kornfeld Le~Moulin Sunny~Farm Oat&Co Bella~Terra Frisko Alpenhof Mira Tarkine "
    "Golden~Leaf Pikanto Dolcezza Morgenrot Solena Crispies Zarte Hügelland Vivabon Kaffa Luna Fjord Grano "
    "Delicia Yoli Choko~Puffs Basilico Rivalta~Nova Marzen Kiko Toasty Purely Greenside Amaretta Salto Bonfire "
    "Pomello Tivoli"
)
SLOGANS = (
    "NEW!", "Original", "Bio", "Organic", "100% natural", "Extra crunchy", "Sans gluten", "Ohne Zucker", "Vegan",
    "500 g e", "Classic", "Chocolat", "Family pack", "Net Wt 12 oz (340g)", "Senza glutine", "Recette de grand-mère",
    "Light", "Premium", "Best before 12.03.27", "Made in EU", "L 4471 B 09:32", "www.example.com", "Serving suggestion",
    "Keep refrigerated",
)  # fmt: skip

OTHER_TABLES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Opening hours", ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"), ("time", "time")),
    ("Size guide", ("XS", "S", "M", "L", "XL", "XXL", "3XL"), ("size", "size", "size")),
    ("Price list", ("Espresso", "Cappuccino", "Latte", "Tea", "Croissant", "Sandwich", "Juice", "Cake"), ("price",)),
    ("Preparation", ("Oven", "Microwave", "Pan", "Grill", "Airfryer", "Steamer"), ("minutes", "degrees")),
    ("Recipe", ("Flour", "Eggs", "Butter", "Milk", "Yeast", "Water", "Rice", "Cream"), ("amount",)),
    ("Delivery", ("Item 0417", "Item 2290", "Item 3105", "Item 7741", "Item 8812", "Item 9023"), ("count", "price")),
    ("Dosage", ("1-2 years", "3-6 years", "7-12 years", "Adults", "Puppy", "Senior"), ("count", "amount")),
)


def phrase(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of the options; `~` stands for a space inside a name."""
    return options[int(rng.integers(len(options)))].replace("~", " ")


def other_value(rng: np.random.Generator, kind: str) -> str:
    """A cell of a table that is not about nutrition."""
    a, b = int(rng.integers(1, 24)), int(rng.integers(0, 4)) * 15
    return {
        "time": f"{a:02d}:{b:02d}", "size": str(30 + 2 * a), "price": f"{a % 12},{b + 30}", "minutes": f"{a} min",
        "degrees": f"{120 + 5 * a}°", "amount": f"{10 * a} ml", "count": str(a),
    }[kind]  # fmt: skip


def nutrient_value(rng: np.random.Generator, row: int, comma: bool) -> str:
    """A plausible amount for the row of a nutrition table; drawn from few values, so that pictures of them are kept."""
    if row == 0:
        kcal = int(rng.integers(4, 60)) * 10
        form = int(rng.integers(3))
        return (f"{round(kcal * 4.18)} kJ", f"{round(kcal * 4.18)}/{kcal}", f"{kcal} kcal")[form]
    if row >= 8:
        return f"{int(rng.integers(1, 40)) * 5} mg"
    value = int(rng.integers(0, 40)) / 10 if rng.random() < 0.6 else int(rng.integers(4, 80))
    text = f"{value:g}"
    if row == 7 and rng.random() < 0.5:
        text = f"{int(rng.integers(1, 20)) / 100:.2f}"
    return (text.replace(".", ",") if comma else text) + (" g" if rng.random() < 0.9 else "g")


PROSE = _words(
    "the results of each test are given in Table and show that water content varies with depth below surface "
    "while samples from northern sites were taken during spring and analyzed for calcium sodium potassium and "
    "sulfate by standard methods Values in parentheses denote deviations of single measurements where no entry is "
    "present data were not available pressure temperature density volume rate Flow Model Total Average Mean Site "
    "Number Depth Sample Region Type Purpose Group Year Cost Income Budget Estimate Percent Mass Energy Time "
    "Length Width Area Ratio Index Code Date Name Unit Status hydraulic conductivity saturation transfer "
    "reference parameter equation solution boundary condition analysis summary report section chapter appendix "
    "annual general public office department committee members policy program services"
)
