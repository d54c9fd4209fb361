"""Sentences on many unrelated matters; what a question scores with them is what a small store cannot tell.

Written for this purpose, on purpose plain; no two are about the same thing, and none is meant to answer anything.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from ..index.encoder import Encoder

# Encoders whose vectors are kept, some 200 kB each.
_KEPT = 4

SENTENCES = tuple(
    """\
The ferry to the outer islands leaves twice a day, and takes bicycles when the sea is calm.
Bread dough rises faster in a warm kitchen, but a slow night in the cold gives it more taste.
The violin maker let the wood dry for nine years before she cut the first plate.
A tax return has to be filed by the end of May unless an adviser asks for more time.
Penguins huddle together in winter and take turns at the windy edge of the group.
The goalkeeper was sent off in the second half, and the home team lost by two goals.
Concrete gains most of its strength in the first four weeks after it has been poured.
The senate rejected the bill by a narrow margin after a debate that lasted all night.
Her grandmother kept the letters in a tin box under the stairs.
Vaccines train the immune system to recognise a germ before it meets the real one.
The comet comes close to the Sun every seventy-six years and can then be seen without a telescope.
Tomatoes should be tied to a stake as soon as they carry their first fruit.
The company sold its shipping branch and bought a maker of small pumps instead.
A sonnet has fourteen lines, and its turn often comes after the eighth.
The bridge was closed to lorries when cracks were found in two of its cables.
Sheep on these hills are counted twice a year, before shearing and before the snow.
An apprentice learns to sharpen chisels long before he is allowed to use them.
The museum lends its oldest maps only to rooms whose air is kept dry.
Salt lowers the freezing point of water, which is why it is spread on icy roads.
The general withdrew his troops across the river and burned the boats behind him.
Passengers may carry one small bag into the cabin without paying extra.
The bakery on the corner opens at five and is sold out of rolls by eight.
Bees tell each other where flowers are by dancing on the comb.
The judge ruled that the lease had ended when the tenant handed back the keys.
A kilogram of feathers fills a sack that two people can hardly carry through a door.
The film was shot in black and white on a lake in the north of the country.
Most earthquakes happen where two plates of the Earth's crust slide past each other.
The choir sings without instruments and rehearses on Thursday evenings.
Interest on the loan is due every quarter, and the rest is paid back after ten years.
Old paint must be scraped off and the wood sanded before a new coat will hold.
The chess master gave up his queen and won the game eleven moves later.
Cats sleep for most of the day and hunt at dawn and dusk.
The village got its first telephone in the year after the railway came.
A passport is valid for ten years and can be renewed at any town hall.
The sauce is thickened with egg yolk and must not be allowed to boil.
Lightning strikes the tallest thing around, so nobody should stand under a single tree.
The orchestra tunes to the oboe, whose note hardly changes with the weather.
Wool shrinks when it is washed in hot water and then dried too fast.
The painter mixed her own blue from a stone that was brought over the mountains.
Rent in the old town has doubled since the university built its new halls.
The marathon starts at the harbour and ends in front of the cathedral.
Vitamin C is lost when vegetables are cooked for a long time.
The prince was nine years old when he was crowned, and his uncle ruled in his name.
A magnet loses its force when it is heated until it glows.
The shop exchanges shoes within two weeks if they have not been worn outdoors.
Monks copied the book by hand, and one of them drew small animals in the margins.
The tunnel is lit day and night and has an exit every three hundred metres.
Owls hear a mouse under the snow and turn their heads almost all the way round.
The two firms agreed on a price but quarrelled about who should pay the lawyers.
A tooth that hurts only when it is cold can often be saved with a filling.
The storm tore the roof off the gymnasium and blew it into a field.
Rice is planted in flooded fields, where few weeds can grow.
The carpenter joined the table without a single nail or drop of glue.
At the border the customs officer opened every crate and found nothing but onions.
The poem was banned in his own country and printed abroad under another name.
A lens bends red light less than blue, so the edges of a picture show colours.
The kindergarten takes children from the age of three and closes in August.
The drummer broke a stick in the middle of the song and went on with one hand.
Copper pipes are soldered, while plastic ones are pressed or glued together.
The island was discovered by a whaler who was looking for fresh water.
Hay must be dry before it is stored, or the barn may catch fire by itself.
The newspaper apologised on page two for having printed the wrong photograph.
Blood is pumped through the lungs first and from there to the rest of the body.
The hotel has forty rooms, of which six look out on the sea.
A tango is danced close together and in steps that follow no fixed order.
The strike ended when the owners offered shorter shifts and a bonus at Christmas.
Glaciers carry stones for many miles and leave them where the ice melts.
The tailor takes nine measures and asks the customer to come back twice.
Wolves were seen in the valley again after they had been gone for a century.
The insurance does not pay for water that comes in through an open window.
The astronaut slept in a bag fixed to the wall, with her arms floating in front of her.
Coffee was first drunk in the south of Arabia and reached Europe by way of Venice.
The referee had the pitch inspected and moved the match to the next day.
Each wife of the old king had a palace of her own and a garden that nobody else entered.
A cracked bell can be recast, but it never has quite the same tone again.
The cyclist changed his tyre in four minutes and caught up before the last hill.
Gold does not rust, and so coins from sunken ships look as they did when they went down.
The jury could not agree, and the trial had to begin again in spring.
Mushrooms appear two days after the rain and are best picked in the morning.
The office moved to the third floor because the cellar had been flooded twice.
He learned the language from sailors and never lost the accent of the docks.
The moon's pull raises the sea twice a day, most of all when the Sun helps.
The theatre burned down in a single night and was rebuilt in stone.
A donkey can carry a third of its own weight along paths too narrow for a cart.
The recipe asks for a pinch of nutmeg, which can be left out.
The parliament meets in a former abbey and votes by a show of hands.
Beavers build their dams at night and repair them as soon as they hear water run.
The watch loses four seconds a day when it lies on its back.
The mine was given up when the price of tin fell below the cost of digging.
Two thirds of those who were asked would rather work on Saturdays than in the evening.
The gardener covers the roses with straw before the first frost.
The pilot reported smoke in the cabin and turned back to the airfield.
A novel of three volumes was too dear to buy, so people borrowed it by the week.
The lighthouse flashes twice every twenty seconds and is seen eighteen miles out.
Children under six travel free, and those under fourteen pay half.
The sculptor left the back of the figure rough because it was to stand in a niche.
Bread and cheese were handed out at the gate on the feast of the saint.
The fever passes after three days, but the cough may last for weeks.
The canal has seven locks and needs water from a lake in the hills.
The team wears green at home and white when it plays away.
A spider's thread is stronger than a steel wire of the same weight.
The widow leased the mill to her cousin for a sack of flour a month.
The speech was broadcast twice, because the first time nobody could hear it.
The potter fires her bowls in a kiln that burns nothing but pine.
The refugees were given a school to live in and went on in spring.
Milk keeps longer when it has been heated for a few seconds and cooled at once.
The tower leans because one side of it stands on clay.
The senior partner has retired, and her office is used for meetings.
Snow falls on the pass from October and closes the road until May.
The detective noticed that the clock had been wound by somebody left-handed.
Sugar beet is harvested late in autumn and driven to the factory day and night.
The bus turns round at the hospital, where the driver has a ten-minute break.
Her first record was made in a garage and sold from the boot of a car.
The treaty gave both countries the right to fish within twelve miles of the rocks.
A good knife is ground on one side only and should never go into the dishwasher.
The swimmers crossed the strait in eleven hours, followed by a boat with soup.
The library forgives all fines in December if the books come back undamaged.
Dinosaurs with feathers lived long before there were any birds.
The wallpaper was printed from wooden blocks, one for each of its nine colours.
The bank asks for two signatures when more than a thousand is taken out.
Silk was so costly that a robe was mentioned in a will before the house.
The puppy has to be let out every three hours and learns its name in a week.
The printer jams when its paper has lain in a damp room.
The expedition turned back forty miles from the pole for want of food.
The soup kitchen is run by pensioners who used to cook on ships.
An avalanche can be set off by one skier who cuts across a fresh slope.
The choirboys wore red on Sundays and were paid in oranges.
The vineyard faces south and is so steep that grapes are carried down by hand.
""".splitlines()
)

_vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
_guard = threading.Lock()


def reference_vectors(encoder: Encoder) -> NDArray[np.float32]:
    """Dense vectors of `SENTENCES`, encoded once for each encoder.

    Returns:
        (N, D) float32 as the encoder makes them of documents.
    """
    with _guard:
        if (known := _vectors.get(encoder.fingerprint)) is not None:
            _vectors.move_to_end(encoder.fingerprint)
            return known
    made = encoder.encode(list(SENTENCES), kind="document").dense
    assert made is not None
    with _guard:
        _vectors[encoder.fingerprint] = made
        while len(_vectors) > _KEPT:
            _vectors.popitem(last=False)
    return made
