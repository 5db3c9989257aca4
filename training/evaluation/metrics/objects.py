"""The objects that captions are checked for: COCO's 80 kinds, and what else stands about in everyday photos."""

from __future__ import annotations

# Each object with its other names and irregular plurals; regular plurals are found by themselves.
COCO = {
    "person": """
        people, man, men, woman, women, boy, girl, child, children, kid, baby, babies, toddler, infant, guy, lady,
        gentleman, gentlemen, adult, teenager, teen, youth, individual, crowd, couple, family, team, someone, human,
        player, athlete, skier, snowboarder, surfer, skateboarder, skater, boarder, rider, biker, cyclist, bicyclist,
        motorcyclist, driver, passenger, pedestrian, runner, jogger, swimmer, diver, climber, hiker, camper, fisherman,
        fishermen, hunter, cowboy, jockey, golfer, wrestler, batter, pitcher, catcher, umpire, referee, racer,
        spectator, audience, soldier, lifeguard, guard,
        policeman, policemen, policewoman, officer, cop, fireman, firefighter,
        worker, businessman, businessmen, chef, waiter, waitress, vendor, shopper, customer, doctor, nurse,
        student, teacher, singer, musician, guitarist, drummer, band, dancer, performer, actor, artist, painter,
        photographer, bride, groom, bridesmaid, mother, mom, father, dad, parent, son, daughter, brother, sister,
        friend, grandmother, grandfather, clown, tourist, somebody
    """,
    "bicycle": "bicycles, mountain bike, tricycle, unicycle, tandem, bmx bike",
    "car": "automobile, suv, sedan, minivan, van, taxi, cab, jeep, limo, limousine, race car, police car, hatchback",
    "motorcycle": "motorbike, motor bike, dirt bike, dirtbike, moped, scooter, motor scooter, vespa, atv",
    "airplane": "plane, aeroplane, aircraft, jet, jetliner, airliner, biplane, fighter jet, passenger jet, seaplane",
    "bus": "minibus, double decker, trolley, school bus, tour bus",
    "train": "locomotive, tram, streetcar, subway train, passenger train, steam engine, train car, subway car",
    "truck": "pickup, pickup truck, lorry, semi, fire truck, firetruck, fire engine, dump truck, tow truck, trailer",
    "boat": """
        sailboat, motorboat, speedboat, rowboat, ship, yacht, canoe, kayak, raft, dinghy, ferry, gondola, barge, vessel
    """,
    "traffic light": "traffic signal, stop light, stoplight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "park bench, pew",
    "bird": """
        seagull, gull, pigeon, dove, duck, duckling, goose, geese, swan, eagle, hawk, falcon, owl, parrot, crow, raven,
        sparrow, robin, heron, pelican, stork, flamingo, ostrich, peacock, penguin, chicken, hen, rooster,
        turkey, hummingbird
    """,
    "cat": "kitten, kitty, tabby",
    "dog": """
        puppy, pup, doggy, hound, greyhound, poodle, retriever, labrador, terrier, collie, shepherd, german shepherd,
        dalmatian, rottweiler, bulldog, beagle, chihuahua, husky, spaniel, corgi, pug, dachshund, great dane, pit bull,
        mutt
    """,
    "horse": "pony, foal, colt, mare, stallion",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, calf, calves, bull, ox, oxen, steer",
    "elephant": "",
    "bear": "polar bear, grizzly, grizzly bear, bear cub, panda, black bear, brown bear",
    "zebra": "",
    "giraffe": "",
    "backpack": "back pack, knapsack, rucksack",
    "umbrella": "parasol",
    "handbag": "purse, tote, shoulder bag",
    "tie": "necktie, bow tie, bowtie",
    "suitcase": "luggage, briefcase, baggage",
    "frisbee": "flying disc, flying disk, disc, disk",
    "skis": "pair of skis",
    "snowboard": "snow board",
    "sports ball": """
        ball, tennis ball, soccer ball, baseball ball, beach ball, rubber ball, golf ball, bowling ball, volley ball
    """,
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "mitt, baseball mitt",
    "skateboard": "skate board, longboard",
    "surfboard": "surf board, bodyboard, boogie board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "wine bottle, water bottle, beer bottle",
    "wine glass": "wineglass, glass of wine, glasses of wine",
    "cup": "mug, teacup, coffee cup, coffee mug, cup of coffee, cup of tea",
    "fork": "",
    "knife": "knives",
    "spoon": "",
    "bowl": "soup bowl, mixing bowl",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, panini",
    "orange": "oranges, orange slice, tangerine, clementine, mandarin",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog, sausage",
    "pizza": "slice of pizza",
    "donut": "doughnut, bagel",
    "cake": "cupcake, birthday cake, wedding cake, cheesecake",
    "chair": "armchair, stool, rocking chair, lawn chair, recliner, high chair, folding chair",
    "couch": "sofa, loveseat, futon",
    "potted plant": "houseplant, house plant, plant, planter",
    "bed": "mattress, bunk bed, bunk, cot, crib",
    "dining table": "table, picnic table, kitchen table, coffee table, desk",
    "toilet": "urinal, commode, toilet seat, toilet bowl",
    "tv": "television, television set, tv screen, flat screen",
    "laptop": "laptop computer, notebook computer",
    "mouse": "computer mouse",
    "remote": "remote control, remotes, wii remote, game controller, wiimote, controller",
    "keyboard": "computer keyboard",
    "cell phone": "cellphone, phone, mobile phone, smartphone, smart phone, iphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, stove top, stovetop",
    "toaster": "toaster oven",
    "sink": "washbasin, wash basin",
    "refrigerator": "fridge, freezer",
    "book": "novel, textbook",
    "clock": "clock tower, alarm clock",
    "vase": "",
    "scissors": "pair of scissors, shears",
    "teddy bear": "teddy, stuffed animal, stuffed bear, plush toy",
    "hair drier": "hair dryer, hairdryer, blow dryer",
    "toothbrush": "",
}
EVERYDAY = {
    "rabbit": "bunny",
    "goat": "",
    "pig": "piglet, hog",
    "monkey": "ape, gorilla, chimpanzee",
    "lion": "",
    "tiger": "",
    "deer": "moose, elk, reindeer, fawn",
    "camel": "llama, alpaca",
    "squirrel": "",
    "turtle": "tortoise",
    "fish": "goldfish, shark",
    "butterfly": "",
    "tractor": "",
    "helicopter": "",
    "wheelchair": "",
    "stroller": "",
    "sled": "sleigh, toboggan",
    "ladder": "",
    "rope": "",
    "leash": "",
    "tent": "canopy",
    "flag": "banner",
    "balloon": "",
    "guitar": "",
    "drum": "drums, drum set",
    "piano": "",
    "camera": "video camera, camcorder",
    "microphone": "",
    "cigarette": "cigar",
    "newspaper": "magazine",
    "candle": "",
    "toy": "doll",
    "trampoline": "",
    "statue": "sculpture, monument",
    "fountain": "",
    "bridge": "",
    "fence": "chain link fence, picket fence",
    "waterfall": "",
    "hat": "cap, baseball cap, beanie, cowboy hat, santa hat, sombrero",
    "helmet": "bike helmet, hard hat, football helmet",
    "glasses": "sunglasses, goggles, sun glasses",
    "jacket": "coat, hoodie, sweatshirt, parka",
    "dress": "gown",
    "skirt": "kilt",
    "scarf": "scarves",
    "mask": "",
    "wetsuit": "wet suit",
    "bikini": "",
    "lamp": "chandelier",
    "mirror": "",
    "pillow": "cushion",
    "blanket": "quilt",
    "bathtub": "bath tub, tub",
    "fireplace": "",
    "bucket": "pail",
    "basket": "",
    "bread": "loaf of bread, loaf, loaves, bun",
    "cheese": "",
    "egg": "",
    "salad": "",
    "ice cream": "ice cream cone, popsicle",
    "cookie": "",
    "strawberry": "",
}
ANIMALS = """
    bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, rabbit, goat, pig, monkey, lion, tiger, deer,
    camel, squirrel, turtle, fish, butterfly
"""
# Words that leave open which object they name: true where any of them is there.
VAGUE = {
    "animal": ANIMALS,
    "pet": ANIMALS,
    "bike": "bicycle, motorcycle",
    "vehicle": "car, truck, bus, motorcycle, train, boat, tractor",
    "board": "skateboard, surfboard, snowboard",
    "bag": "handbag, backpack, suitcase",
    "boxer": "person, dog",
    "computer": "laptop, keyboard",
    "fruit": "banana, apple, orange, strawberry",
}
# Objects whose bare names are mostly something else: a colour, an adjective.
UNSURE = ("orange", "remote")
# What only sounds like an object.
NO_OBJECT = """
    couple of, team of, family of, glasses of, bed of, home plate, train track, train station, bus stop, bus station,
    cable car, car park, horse race, dog house, dog park, bird bath, sea lion, fish tank, book store, book shelf,
    apple tree, orange tree, flower bed, board walk, board game, table tennis, mouse pad
"""


def _listed(names: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in names.split(",") if name.strip())


def _object_names() -> dict[str, tuple[str, ...]]:
    """Each word or phrase with the objects that it may name; of none it only sounds like an object's name."""
    objects = COCO | EVERYDAY
    named: dict[str, tuple[str, ...]] = {name: (name,) for name in objects if name not in UNSURE}
    for name, others in objects.items():
        named |= dict.fromkeys(_listed(others), (name,))
    named |= {phrase: _listed(names) for phrase, names in VAGUE.items()}
    # A "baby elephant" is no person.
    for animal in _listed(ANIMALS):
        young = [phrase for phrase, names in named.items() if names == (animal,)]
        named |= {f"baby {phrase}": (animal,) for phrase in young}
    return named | dict.fromkeys(_listed(NO_OBJECT), ())


OBJECT_NAMES = _object_names()
