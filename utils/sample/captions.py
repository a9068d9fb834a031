"""Captions of the built-in sample: simulated sentences, and rewrites that say the same in other words (utils/sample/builder.py).

No captioner and no language model had a part in them. T snippets of 16 frames, E width of a sentence's vector.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.captions.formats import Caption, VideoCaptions, write_captions
from utils.labels import SNIPPET, Dataset
from utils.text import CLIPText, openai_clip

TREES = ("source", "rewrite-1", "rewrite-2")  # a wording each


class Said(NamedTuple):
    """What is said of a snippet: the class it tells of, 0 for a scene, and a wording for each of TREES."""

    which: int
    wordings: tuple[str, ...]


@dataclass(frozen=True)
class CaptionSettings:
    """Lengths are in snippets, on average; rates per 100 snippets."""

    scene: float = 40  # a scene lasts
    caption: float = 4  # a caption is repeated over
    told: float = 0.7  # share of an event's captions that tell its class; the others tell of the scene
    bursts: float = 2.0  # rate of distractors: captions of a class without its event, 1 or 2 snippets long
    meaning: float = 0.7  # how far the vectors of a class's sentences are moved towards it


SETTINGS = CaptionSettings()

# A meaning is three wordings: one becomes the caption, the others its rewrites.
PEOPLE = ("a man", "a woman", "a young man", "a man in a cap", "someone in a red jacket")
PLACES = ("in the street", "in a shop", "in front of a house", "in a car park", "next to a bus stop")
SCENES = {
    "street": (
        ("{who} walks down the street", "{who} is walking along the pavement", "on the pavement {who} goes for a walk"),
        ("people stroll past the shops", "pedestrians pass in front of the shops", "passers-by walk along the shop fronts"),
        ("{who} waits at the crossing", "{who} stands at the traffic light", "at the zebra crossing {who} is waiting"),
    ),
    "road": (
        ("cars pass on a wide road", "traffic flows along the road", "vehicles drive by on the avenue"),
        ("a white van is parked at the kerb", "a van stands at the side of the road", "at the roadside a white van is parked"),
        ("{who} rides a bicycle", "{who} is cycling along the lane", "on a bike {who} rides by"),
    ),
    "shop": (
        ("customers queue at the till", "shoppers stand in line at the counter", "a line of customers waits to pay"),
        ("{who} looks at the products", "{who} is browsing the aisle", "in the aisle {who} chooses some goods"),
        ("the clerk talks with {who}", "a cashier and {who} have a chat", "at the counter the clerk serves {who}"),
    ),
    "office": (
        ("{who} sits at a desk", "{who} is working at a computer", "at the desk {who} types on a keyboard"),
        ("a meeting goes on in the office", "colleagues talk round a table", "staff sit together in a meeting room"),
        ("the corridor is empty and quiet", "nobody is in the corridor", "an empty hallway lies in the light"),
    ),
    "home": (
        ("{who} opens the front door", "{who} comes home", "at the entrance {who} unlocks the door"),
        ("a dog lies on the lawn", "a dog is sleeping in the garden", "on the grass a dog takes a nap"),
        ("{who} waters the plants", "{who} is working in the garden", "in the yard {who} tends the flowers"),
    ),
}
CRASH = (
    ("a car crashes into another car", "two vehicles collide", "one car runs into the side of another"),
    ("a lorry skids and overturns", "a truck slides off and rolls over", "out of control a lorry tips onto its side"),
    ("a motorcyclist is hit by a car", "a car knocks down a motorbike rider", "the rider is thrown off as a car hits the motorcycle"),
)
SENTENCES = {
    "abuse": (
        ("{who} shouts at a frightened old person", "an old person is yelled at by {who}", "{who} screams at a helpless elder"),
        ("{who} drags a crying child by the arm", "a child in tears is pulled along by {who}", "{who} roughly hauls a weeping child"),
        ("{who} beats a dog with a stick", "a dog is whipped by {who}", "{who} mistreats a dog, using a stick"),
    ),
    "arrest": (
        ("police officers handcuff {who}", "{who} is put in handcuffs by the police", "an officer cuffs the hands of {who}"),
        ("{who} is led to a patrol car", "officers take {who} into custody", "a policeman escorts {who} to the police car"),
        ("officers hold a suspect on the ground", "a suspect is pinned down by police", "policemen press a suspect to the floor"),
    ),
    "arson": (
        ("{who} pours petrol and lights it", "{who} sets fuel on fire", "petrol is lit with a match by {who}"),
        ("{who} sets fire to a parked car", "a car is put to the torch by {who}", "{who} burns a car with a lighter"),
        ("flames climb up a wall after {who} ran off", "{who} flees from a blaze that grows", "a fire spreads behind {who}, who set it"),
    ),
    "assault": (
        ("{who} attacks a passer-by from behind", "a passer-by is assaulted by {who}", "{who} jumps on a stranger from the back"),
        ("{who} knocks a victim to the ground", "a victim is struck down by {who}", "{who} floors a person with one blow"),
        ("{who} stabs at someone with a knife", "a knife attack by {who}", "{who} lunges at a person, knife in hand"),
    ),
    "burglary": (
        ("{who} breaks a window and climbs in", "{who} enters through a smashed window", "through broken glass {who} gets into the house"),
        ("{who} forces the back door with a crowbar", "a door is prised open by {who}", "with a crowbar {who} opens the locked door"),
        ("{who} searches the drawers with a torch", "a room is ransacked by {who}, masked", "drawers are emptied by {who} at night"),
    ),
    "explosion": (
        ("an explosion throws debris into the air", "debris flies as something blows up", "a blast hurls rubble upwards"),
        ("a fireball and smoke rise {where}", "black smoke and a ball of fire appear {where}", "a burst of flame and smoke {where}"),
        ("a bomb goes off {where}", "a bomb detonates {where}", "{where} a bomb explodes"),
    ),
    "fighting": (
        ("two men are hitting each other {where}", "two people exchange punches {where}", "a fist fight between two men {where}"),
        ("{who} kicks and punches somebody", "{who} brawls, fists flying", "blows and kicks are traded by {who} and a rival"),
        ("a group brawls {where}", "several people fight {where}", "a scuffle of many breaks out {where}"),
    ),
    "robbery": (
        ("{who} aims a gun and takes the cash", "the money goes to {who} at gunpoint", "with a weapon {who} robs the till"),
        ("masked robbers threaten the clerk", "hooded men hold up the clerk", "the clerk is held up by a masked gang"),
        ("{who} snatches a bag by force and runs", "a handbag is torn away by {who}", "{who} rips a purse off its owner and flees"),
    ),
    "shooting": (
        ("{who} fires a gun {where}", "{who} is shooting with a pistol {where}", "gunshots are fired by {who} {where}"),
        ("people duck as shots are fired", "a crowd takes cover from gunfire", "everyone drops down when bullets fly"),
        ("soldiers fire their rifles", "gunmen shoot with machine guns", "rifles flash as soldiers shoot"),
    ),
    "shoplifting": (
        ("{who} hides goods under the coat", "goods vanish into the coat of {who}", "{who} slips merchandise inside a jacket"),
        ("{who} puts a bottle into a bag without paying", "an unpaid bottle vanishes, taken by {who}", "{who} conceals a bottle in a bag"),
        ("{who} leaves the store with unpaid items", "{who} walks out without paying", "items are carried out unpaid by {who}"),
    ),
    "stealing": (
        ("{who} cuts a lock and takes a bicycle", "a bike is stolen by {who}", "{who} makes off with a locked bicycle"),
        ("{who} drives away in a stolen car", "a car is hot-wired and taken by {who}", "{who} steals a vehicle"),
        ("{who} takes a phone from a table unseen", "a phone is pocketed by {who}", "{who} secretly lifts a wallet and a phone"),
    ),
    "vandalism": (
        ("{who} sprays paint on a wall", "graffiti is sprayed by {who}", "a wall is daubed with paint by {who}"),
        ("{who} smashes a shop window", "a pane is shattered by {who}", "{who} throws a stone through the glass"),
        ("{who} kicks over bins and scratches cars", "bins are tipped over by {who}", "{who} damages parked cars with a key"),
    ),
    "riot": (
        ("a crowd throws stones at the police", "rioters pelt riot shields with stones", "stones fly from a mob at a police line"),
        ("protesters clash with riot police {where}", "a mob charges the police {where}", "{where} demonstrators and riot police clash"),
        ("an angry mob burns barricades", "barricades are set alight by the mob", "rioters light tyres on a barricade"),
    ),
    "car accident": CRASH,
    "roadAccidents": CRASH,
}  # fmt: skip


def about() -> dict:
    """What decides the captions beside the seed, for sample.json."""
    said = json.dumps([PEOPLE, PLACES, SCENES, SENTENCES])
    return {**asdict(SETTINGS), "sentences": hashlib.sha256(said.encode()).hexdigest()[:16]}


def simulate_captions(rng: np.random.Generator, video, dataset: Dataset, settings: CaptionSettings) -> list[Said]:
    """What is said of each of the T snippets of a builder.Video."""
    length = -(-video.frames // SNIPPET)
    scene = np.cumsum(rng.random(length) < 1 / settings.scene)
    places = rng.choice(list(SCENES), scene[-1] + 1)
    shown = np.zeros(length, int)  # the class whose event the snippet's centre lies in
    for start, end, which in video.segments:
        shown[round(start / SNIPPET) : round(end / SNIPPET)] = which
    again = rng.random(length) < 1 / settings.caption
    captions = []
    for t in range(length):
        if t == 0 or again[t] or shown[t] != shown[t - 1] or scene[t] != scene[t - 1]:
            which = int(shown[t]) if rng.random() < settings.told else 0
            said = Said(which, say(rng, SENTENCES[dataset.names[which]] if which else SCENES[places[scene[t]]]))
        captions.append(said)
    for start in np.flatnonzero(rng.random(length) < settings.bursts / 100):
        which = int(rng.integers(1, len(dataset.names)))
        said = Said(which, say(rng, SENTENCES[dataset.names[which]]))
        for t in range(start, min(start + rng.integers(1, 3), length)):
            captions[t] = said
    return captions


def say(rng: np.random.Generator, meanings) -> tuple[str, ...]:
    """One of the meanings in its wordings, in random order, all of the same person and place."""
    words = {"who": rng.choice(PEOPLE), "where": rng.choice(PLACES)}
    meaning = meanings[rng.integers(len(meanings))]
    return tuple(meaning[i].format(**words) for i in rng.permutation(len(TREES)))


def sentence_vectors(clip_model, sentences: dict[str, int], directions: np.ndarray) -> dict[str, np.ndarray]:
    """sentences: {text: class number} -> {text: (E,) float16 of about unit length}.

    The unit text features of the sample's CLIP (a builder.write_clip) tell words apart and know no meaning, so those of a class's
    sentences are moved by its row of directions (C+1, E), as its events' features are.
    """
    import torch

    text = CLIPText(clip_model.float())
    ids = openai_clip().tokenize(list(sentences))
    lengths = ids.argmax(1) + 1  # [EOS] has the highest number
    with torch.no_grad():
        vectors = text(text.table(ids[:, : lengths.max()]), lengths).numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    which = np.array(list(sentences.values()))
    vectors += SETTINGS.meaning * directions[which] * (which > 0)[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Rounded, so that another CPU's last bit in the transformer does not show.
    return dict(zip(sentences, vectors.round(4).astype(np.float16), strict=True))


def write_trees(folder: Path, plan: list, rngs: list[np.random.Generator], dataset: Dataset, clip_model, directions: np.ndarray) -> None:
    """folder/TREE/NAME.npy (T, E) float16 and NAME.jsonl, the texts, for each of TREES and each builder.Video of the plan.

    rngs: a generator of its own for each video; directions (C+1, E): from normal to each class in the CLIP's text space.
    """
    captions = {video.name: simulate_captions(rng, video, dataset, SETTINGS) for video, rng in zip(plan, rngs, strict=True)}
    sentences = {text: said.which for spoken in captions.values() for said in spoken for text in said.wordings}
    vectors = sentence_vectors(clip_model, sentences, directions)
    for number, tree in enumerate(TREES):
        (folder / tree).mkdir(parents=True)
        for video in plan:
            texts = [said.wordings[number] for said in captions[video.name]]
            np.save(folder / tree / f"{video.name}.npy", np.stack([vectors[text] for text in texts]))
            spoken = VideoCaptions(video.frames, float(dataset.fps), [], {"model": "simulated"})
            for t, (text, said) in enumerate(zip(texts, captions[video.name], strict=True)):
                more = {"snippet": t} | ({"source": said.wordings[0]} if number else {})
                spoken.captions.append(Caption(SNIPPET * t, min(SNIPPET * (t + 1), video.frames), text, more))
            write_captions(folder / tree / f"{video.name}.jsonl", video.name, spoken)
