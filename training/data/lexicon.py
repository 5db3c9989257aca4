"""Words for questions made from captions: objects, colours, numbers and actions, as plain tables.

Chosen from the frequent words of the Flickr8k train captions; COCO's object names are among them.
"""

from __future__ import annotations

# Each object and the other names under which captions mention the same thing.
PEOPLE = {
    "man": "guy gentleman",
    "woman": "lady",
    "boy": "",
    "girl": "",
    "person": "",
    "child": "kid toddler",
    "baby": "infant",
}
ANIMALS = {
    "dog": "puppy greyhound poodle retriever hound terrier collie dalmatian rottweiler",
    "cat": "kitten",
    "horse": "pony",
    "bird": "seagull pigeon eagle duck goose",
    "cow": "",
    "bull": "",
    "sheep": "lamb",
    "goat": "",
    "fish": "",
    "camel": "",
    "elephant": "",
    "bear": "",
    "zebra": "",
    "giraffe": "",
    "rabbit": "bunny",
}
VEHICLES = {
    "car": "",
    "truck": "pickup",
    "bus": "",
    "train": "",
    "bicycle": "bike",
    "motorcycle": "motorbike",
    "boat": "sailboat rowboat",
    "kayak": "",
    "canoe": "",
    "raft": "",
    "scooter": "",
    "airplane": "plane",
    "tractor": "",
    "jeep": "",
    "unicycle": "",
}
CLOTHES = {
    "shirt": "t-shirt tshirt",
    "jacket": "coat",
    "dress": "",
    "hat": "",
    "cap": "",
    "helmet": "",
    "skirt": "",
    "sweater": "sweatshirt hoodie",
    "vest": "",
    "suit": "",
    "scarf": "",
    "backpack": "",
    "swimsuit": "bikini",
    "wetsuit": "",
    "mask": "",
    "uniform": "jersey",
    "collar": "",
    "headband": "bandanna",
}
THINGS = {
    "ball": "",
    "frisbee": "",
    "stick": "",
    "toy": "",
    "skateboard": "",
    "snowboard": "",
    "surfboard": "",
    "sled": "",
    "rope": "",
    "leash": "",
    "guitar": "",
    "camera": "",
    "book": "",
    "newspaper": "",
    "umbrella": "",
    "bag": "purse",
    "bottle": "",
    "cup": "",
    "flag": "",
    "balloon": "",
    "microphone": "",
    "bat": "",
    "racket": "",
    "bucket": "",
    "cigarette": "",
    "phone": "cellphone",
    "table": "",
    "chair": "",
    "bench": "",
    "bed": "",
    "couch": "sofa",
    "tent": "",
    "trampoline": "",
    "fence": "",
    "wall": "",
    "bridge": "",
    "building": "skyscraper",
    "house": "",
    "window": "",
    "door": "",
    "sign": "",
    "statue": "",
    "fountain": "",
    "waterfall": "",
    "mountain": "",
    "cliff": "",
    "hill": "",
    "beach": "",
    "pool": "",
    "lake": "",
    "river": "",
    "ocean": "sea",
    "tree": "",
    "flower": "",
    "rock": "boulder",
    "log": "",
    "cake": "",
    "pizza": "",
    "banana": "",
    "apple": "",
    "clock": "",
    "television": "tv",
    "laptop": "computer",
    "kite": "",
    "refrigerator": "fridge",
    "toilet": "",
    "oven": "stove",
}
# Without an article, and not counted.
SUBSTANCES = {"water": "", "snow": "", "sand": "", "grass": "", "mud": "", "fire": "", "ice": ""}
ALWAYS_PLURAL = {
    "sunglasses": "",
    "glasses": "goggles",
    "jeans": "",
    "shorts": "",
    "pants": "trousers",
    "gloves": "",
    "boots": "",
    "shoes": "",
    "headphones": "",
}
OBJECTS = PEOPLE | ANIMALS | VEHICLES | CLOTHES | THINGS | SUBSTANCES | ALWAYS_PLURAL

IRREGULAR_PLURALS = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "gentleman": "gentlemen",
    "sheep": "sheep",
    "fish": "fish",
    "goose": "geese",
}

# Plurals that are mostly verbs in captions; they rule out a negative but are no mention.
VERB_LIKE = "sticks kayaks canoes rafts trains bears"

# A caption with one of these words leaves open that the object is there, so no caption set that
# has one gives the object as a negative. Names of the object itself always count.
_SOMEONE = (
    "person people someone somebody child kid children kids toddler baby infant adult teenager "
    "teen group crowd couple family friend player team rider biker cyclist skier snowboarder "
    "skateboarder surfer climber hiker runner athlete performer dancer musician worker spectator "
    "audience student soldier band they human individual figure swimmer racer goalie wrestler "
    "bride groom motorcyclist bicyclist youth other another pedestrian participant onlooker he she"
)
_BALL_GAMES = "soccer football basketball baseball tennis volleyball rugby softball cricket golf"
OPEN_TO = {
    "man": f"{_SOMEONE} boy male cowboy father santa policeman fisherman",
    "woman": f"{_SOMEONE} girl female mother bride cheerleader",
    "boy": f"{_SOMEONE} man male guy son brother",
    "girl": f"{_SOMEONE} woman lady female daughter sister cheerleader",
    "child": f"{_SOMEONE} boy girl",
    "baby": f"{_SOMEONE} boy girl",
    "person": f"{_SOMEONE} man woman boy girl guy lady male female cowboy",
    "dog": "animal pet shepherd husky beagle labrador spaniel chihuahua bulldog corgi",
    "horse": "animal rodeo jockey polo bronco",
    "car": "vehicle traffic race truck van taxi jeep automobile racetrack street road parking",
    "truck": "vehicle van car",
    "jeep": "vehicle car truck suv",
    "bus": "vehicle traffic",
    "bicycle": "cyclist biker bicyclist bmx rider motorcycle",
    "motorcycle": "motorcyclist biker dirt motocross rider bike",
    "boat": "canoe kayak raft ship vessel rowing sailing ferry",
    "kayak": "canoe boat raft paddling",
    "canoe": "kayak boat raft paddling",
    "raft": "boat tube canoe rafting",
    "ball": f"{_BALL_GAMES} toy bowling",
    "toy": "ball frisbee stick doll chew",
    "stick": "branch log pole wood bat toy",
    "shirt": "shirtless top uniform jersey outfit sweater dressed clothes clothing vest blouse",
    "jacket": "dressed suit parka sweater outfit clothes clothing hoodie sweatshirt vest",
    "dress": "dressed gown costume skirt outfit clothes clothing",
    "hat": "cap helmet beanie cowboy santa hood",
    "cap": "hat helmet beanie",
    "helmet": "gear hat cap biker uniform football player motocross",
    "suit": "swimsuit wetsuit dressed bathing outfit clothes clothing",
    "uniform": "team player dressed outfit shirt suit",
    "skirt": "dress dressed outfit clothes",
    "glasses": "sunglasses goggles eyewear",
    "sunglasses": "glasses goggles shades eyewear",
    "pants": "jeans trunks trousers dressed clothes clothing outfit",
    "jeans": "pants denim clothes clothing",
    "shorts": "trunks pants dressed clothes clothing outfit swimsuit",
    "shoes": "boots sneakers sandals skates cleats feet clothes",
    "collar": "leash tag",
    "leash": "walking collar rope",
    "rope": "leash line tug cord harness climbing climber",
    "snowboard": "snowboarder snowboarding board",
    "surfboard": "surfer surfing surf board wave",
    "skateboard": "skateboarder skateboarding skate board skater",
    "building": "house street city store shop skyscraper church wall window restaurant market",
    "wall": "building brick graffiti climbing house",
    "window": "building house store shop car train bus",
    "door": "building house doorway entrance car",
    "sign": "street store shop banner poster letters",
    "fence": "railing gate fenced enclosure",
    "table": "desk restaurant bar picnic",
    "chair": "seat seated bench stool sitting",
    "bench": "seat seated chair stool bleachers",
    "couch": "bed seat chair",
    "bed": "couch mattress blanket",
    "tree": "forest woods wooded log branch trees park bushes leaves jungle",
    "flower": "garden plant bouquet blossom field",
    "rock": "stone rocky cliff mountain pebbles rapids",
    "mountain": "cliff hill rock slope peak mountainous ridge canyon ski snowy",
    "cliff": "mountain rock rocky ledge",
    "hill": "mountain slope hillside hilly uphill downhill dune",
    "beach": "sand ocean shore sea surf coast waves wave",
    "ocean": "beach water surf wave waves shore sea surfer",
    "lake": "water river pond pool ocean dock",
    "river": "water stream lake creek rapids canoe kayak raft",
    "pool": "swimming swim water swimmer",
    "water": (
        "ocean sea lake river pool pond stream creek wave waves surf beach rain splash splashing "
        "fountain swim swimming boat wet puddle surfer kayak canoe raft waterfall sprinkler dock"
    ),
    "snow": "snowy ski skiing skier ice sled winter snowboard snowboarder snowball cold",
    "ice": "snow snowy hockey icy skating skate frozen winter",
    "sand": "sandy beach desert dune shore dirt",
    "grass": "grassy field lawn yard park meadow pasture hay golf soccer garden",
    "mud": "muddy dirt dirty puddle",
    "camera": "photo picture photographer photograph posing film",
    "phone": "cell telephone cellular",
    "cup": "drink drinking glass mug coffee beer",
    "bottle": "drink drinking beer",
    "bag": "backpack luggage shopping suitcase",
    "backpack": "bag hiker hiking gear",
    "house": "building home yard porch",
    "bat": "baseball batter cricket softball",
    "racket": "tennis racquet badminton",
    "mask": "costume face masked goggles",
    "bird": "animal flying wings",
    "fire": "flame flames torch smoke campfire burning",
    "statue": "sculpture monument fountain",
    "fountain": "water",
    "waterfall": "water",
    "microphone": "singing singer stage band",
    "guitar": "band instrument musician music",
    "airplane": "plane jet sky flying aircraft",
}

# A noun right before one of these is part of another thing's name ("dog toy", "football player").
HEADS = (
    "player players team game match park court field track race racer course house toy toys show "
    "trainer owner sled walker rider rider's driver top board boards wall store shop station stop "
    "scout scouts band lot bed set ride suit uniform collar bowl bone cage tag print frame kennel"
)
# A noun after one of these, at most two words on, is not the thing itself.
NOT_REAL = "no without teddy stuffed statue painting drawing picture fake costume like resembling"

COLOURS = (
    "red blue green yellow orange pink purple white black brown gray tan beige gold silver maroon"
)
COLOUR_SPELLINGS = {"grey": "gray", "golden": "gold"}
ADJECTIVES = (
    "small large big little young old older long short tall furry fluffy hairy wet dirty striped "
    "plaid wooden plastic metal stuffed bright dark light shiny spotted thick thin fuzzy muzzled "
    "male female adult smiling happy tiny huge soccer tennis rubber baseball cowboy winter hooded"
)
NUMBERS = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
}

# Actions whose name alone answers "What is the dog doing?", with their other forms.
ACTIONS = {
    "running": "runs run",
    "jumping": "jumps jump leaping leaps leap",
    "walking": "walks walk",
    "sitting": "sits sit",
    "standing": "stands stand",
    "swimming": "swims swim",
    "playing": "plays play",
    "climbing": "climbs climb",
    "sleeping": "sleeps sleep",
    "skiing": "skis",
    "snowboarding": "snowboards",
    "surfing": "surfs",
    "skateboarding": "skateboards",
    "eating": "eats eat",
    "drinking": "drinks drink",
    "smiling": "smiles smile",
    "laughing": "laughs laugh",
    "dancing": "dances dance",
    "digging": "digs dig",
    "fighting": "fights fight",
    "wrestling": "wrestles wrestle",
    "hiking": "hikes hike",
    "singing": "sings sing",
    "reading": "reads read",
    "fishing": "",
    "lying": "lies laying lays",
    "kayaking": "",
    "swinging": "swings",
    "sliding": "slides",
    "diving": "dives",
    "skating": "skates",
    "barking": "barks",
    "crawling": "crawls",
    "kneeling": "kneels",
}

# Actions with an object: "What is the boy riding?"
DEEDS = {
    "riding": "rides ride",
    "holding": "holds hold",
    "wearing": "wears wear",
    "carrying": "carries carry",
    "chasing": "chases chase",
    "catching": "catches catch",
    "throwing": "throws throw",
    "kicking": "kicks kick",
    "pulling": "pulls pull",
    "pushing": "pushes push",
    "climbing": "climbs climb",
    "playing": "plays play",
}
