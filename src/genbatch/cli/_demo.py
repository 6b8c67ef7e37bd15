"""What a demo makes, and the namespace it does so in."""

DEMO = "demo"  # of its own, or a real run would take the placeholders for its images

PROMPTS = [
    "A red fox asleep in fresh snow, first light, long lens",
    "Isometric cutaway of a lighthouse, every room furnished",
    "A street market in the rain, watercolour on rough paper",
    'A neon sign that says "OPEN LATE" above a noodle bar',
    "Portrait of an astronaut knitting, oil on canvas",
    "An octopus playing chess against itself, woodcut",
    "Macro photograph of frost on a blue wool glove",
    "A tiny library inside a walnut shell, soft light",
    "Map of an island shaped like a sleeping cat",
    "Bauhaus poster for a concert of kitchen appliances",
    "A bicycle overgrown with wisteria in a quiet courtyard",
    "Pixel art of a dragon queueing at a bakery",
    "Glass teapot with a thunderstorm brewing inside",
    "A paper crane flying over a city made of newspapers",
    "Blueprint of a machine that sorts clouds by mood",
    "Three owls on a telephone wire, ink and gold leaf",
    "A desert train station at night under the Milky Way",
    "Clay figurines of a jazz quartet, studio light",
    "Vegetable stall arranged as a colour wheel, from above",
    "A whale surfacing in a field of wheat at dusk",
]
