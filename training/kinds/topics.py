"""What the classifiers read: words and sentences of fourteen topics, and sentences with a mood."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

# Topic -> its names as a label, and phrases that belong to it.
NAMES = {
    "politics": ("politics", "politics", "government"), "science": ("science", "science", "research"),
    "sport": ("sport", "sports"), "food": ("food", "cooking"), "travel": ("travel", "tourism"),
    "technology": ("technology", "tech", "computers"), "music": ("music",), "weather": ("weather",), "animals": ("animals", "pets"),
    "health": ("health", "medicine"), "business": ("business", "economy", "finance"), "film": ("film", "movies", "cinema"),
    "education": ("education", "school"), "fashion": ("fashion", "clothes"),
}  # fmt: skip

PHRASES = {
    "politics": "the president|the election|the parliament|the senate|the Electoral College|the prime minister|a new law|the government|"
                "the vote|the voters|the congress|a senator|the minister|the campaign|the constitution|the opposition|the party leader|"
                "the ballot|the mayor|the governor|the treaty|democracy|the White House|the republic|a referendum|the coalition|the king's "
                "speech to parliament|foreign policy|the supreme court|the candidates|the cabinet|the ambassador|human rights|a political party",
    "science": "the experiment|a new planet|the atom|gravity|the laboratory|the scientists|a chemical reaction|the telescope|biology|physics|"
               "chemistry|the researchers|the theory|DNA|the molecule|the microscope|the galaxy|evolution|electrons|the particle|the cell|"
               "the speed of light|the fossil|the moon landing|energy and matter|the solar system|the hypothesis|genes|bacteria|the universe|the space probe|mathematics|oxygen|a black hole",
    "sport": "the football match|the goal|the team|the coach|the tennis player|the Olympic Games|the race|the world cup|the striker|the "
             "goalkeeper|the championship|the stadium|basketball|the referee|the marathon|a gold medal|the league|the swimmer|baseball|"
             "the boxing match|the final score|the runner|the penalty|cycling|the tournament|hockey|golf|the fans in the stadium|the athlete|the winning team",
    "food": "the soup|fresh bread|the recipe|the restaurant|the chef|the cake|cheese|pasta|the kitchen|a tasty dinner|the pizza|the salad|"
            "spices|chocolate|the oven|breakfast|grilled fish|the vegetables|the dessert|rice and beans|the sauce|olive oil|the cook|the "
            "menu|ice cream|garlic and onions|the pancakes|a cup of coffee|the sandwich|roasted potatoes|the flour and sugar|the apple pie",
    "travel": "the airport|the hotel|the passport|the trip to Italy|the flight|the suitcase|the tourists|the beach holiday|the train ticket|"
              "the guided tour|the island vacation|the journey|the travel agency|the map of the city|the cruise|the museum tour|the border "
              "|backpacking|the hostel|sightseeing|a weekend in Paris|the visa|the tour guide|the luggage|camping in the mountains|the road trip|the holiday|the old castle tour",
    "technology": "the computer|the new phone|the software|the internet|the app|the robot|artificial intelligence|the laptop|the website|"
                  "the processor|the program|the server|the update|the chip|the battery|the screen|the network|a programming language|the "
                  "database|the smartphone|the password|the camera sensor|the operating system|the code|cloud computing|the browser|the keyboard|the self-driving car|language models|the hard disk",
    "music": "the song|the guitar|the piano|the concert|the band|the orchestra|the singer|the melody|the album|the violin|the drummer|jazz|"
             "the choir|the symphony|the opera singer|the rhythm|the musician|the chorus|the flute|rock music|the composer|the notes|the "
             "radio hit|the trumpet|the tune|hip hop|the festival stage|the lyrics|the music teacher|the sound of the drums",
    "weather": "the rain|heavy snow|the storm|the sunshine|the wind|the forecast|the temperature|the clouds|the fog|a thunderstorm|the heat "
               "wave|the frost|the hurricane|the rainbow|a cold front|lightning|light showers|the dry season|hail|the humidity|a sunny day|ice on the roads|the cloudy sky|the flood warning|the tornado|degrees below zero",
    "animals": "the dog|the cat|the elephant|the lion|the birds|the horse|the rabbit|the zoo|the puppy|the whale|the wolf|the monkey|the "
               "kitten|the penguins|the bear|the snake|the tiger|the fox|the sheep|the hamster|the dolphin|the giraffe|the nest|the owl|the "
               "turtle|the parrot|the cows|the deer|the squirrel|the goldfish",
    "health": "the doctor|the hospital|the patient|the medicine|the virus|the nurse|the vaccine|the headache|the fever|a healthy diet|the "
              "surgery|the heart attack|the flu|the treatment|high blood pressure|the dentist|the broken leg|the pills|the disease|the "
              "therapy|good sleep|the cough|the clinic|the infection|the allergy|stomach pain|the blood test|the cancer study",
    "business": "the company|the stock market|the profit|the bank|the investors|the sales|the price of oil|the shares|the merger|the budget|"
                "the manager|the tax on income|the market|inflation|the loan|the customers|the startup|the revenue|the trade deal|the "
                "interest rate|the factory owners|the contract|the insurance|the jobs report|the quarterly earnings|the economy|the CEO|the debt",
    "film": "the movie|the actor|the director|the film festival|the cinema|the actress|the script|the scene|the trailer|the Oscar|the "
            "documentary|the film crew|the sequel|the screenplay|the comedy|the horror film|the movie star|the special effects|the "
            "premiere|the Hollywood studio|the cartoon|the soundtrack of the movie|the box office|the film critic",
    "education": "the school|the teacher|the students|the exam|the university|the homework|the lesson|the classroom|the pupils|the degree|"
                 "the textbook|the professor|the lecture|the school year|the grades|the library of the school|the course|kindergarten|the "
                 "diploma|the scholarship|the math test|the reading class|learning to write|the headteacher|the campus",
    "fashion": "the dress|the shoes|the designer|the jacket|the fashion show|the skirt|the handbag|the runway|the model in a coat|the "
               "sweater|the jeans|the scarf|the new collection|the hat and gloves|the fabric|the silk shirt|the style|the necklace|the "
               "boutique|high heels|the suit and tie|the trends of the season|the tailor|cotton T-shirts",
}  # fmt: skip

# Frames that say nothing about the topic themselves.
FRAMES = (
    "Everyone is talking about {p}.", "The article is about {p}.", "We read a long text about {p}.", "The news today was about {p}.",
    "I want to know more about {p}.", "{P} surprised many people.", "There is a new book about {p}.", "My friend told me about {p}.",
    "She wrote a report about {p}.", "People have strong feelings about {p}.", "They spoke for hours about {p}.", "{P} was on the front page.",
    "He thinks a lot about {p}.", "This is about {p} and {q}.", "We talked about {p} and {q}.", "It is all about {p}.", "{P} is important for {q}.",
    "There was a question about {p} and {q}.", "{P} and {q} were in the news.", "What do you think about {p}?", "Do you know anything about {p}?",
    "{P} changed everything this year.", "I cannot stop thinking about {p}.", "The story of {p} is long.",
)  # fmt: skip

SENTENCES = {
    "politics": (
        "It is the Electoral College's [responsibility|job|duty|task] to elect the president.", "It is the [voters'|people's|parliament's|senate's] [responsibility|job|duty|task] to [elect the president|choose the government|elect the leader|vote on the law].",
        "The [president|governor|prime minister|minister] [signed|vetoed|announced|defended] [a new law|the treaty|the bill|the reform] [on {day}|yesterday|this week].",
        "The [senate|parliament|congress] [voted|will vote] [on|against|for] the [bill|law|reform|budget plan].", "[Voters|Citizens|People] will [elect|choose] a new [president|mayor|parliament|government] in {month}.",
        "The [party|opposition|candidate] [won|lost] the [election|vote|debate] by a few [votes|seats].", "The two [leaders|ministers|ambassadors] met to talk about [peace|the treaty|the border|human rights].",
    ),
    "science": (
        "[Scientists|Researchers|Astronomers|Physicists] [found|discovered|observed|studied] [a new planet|a new particle|water on Mars|an old fossil|a distant galaxy|how cells grow].",
        "The [experiment|study|theory] [shows|explains|proves] how [atoms|cells|genes|stars|light waves] [work|form|change|behave].", "[Water|A molecule] is made of [hydrogen and oxygen|atoms].",
        "The [telescope|microscope] helps [scientists|researchers] to see [stars|cells|galaxies|bacteria].", "[Light|Sound|Energy] travels [faster|slower] than [anything else|expected].", "The planets move around the sun because of gravity.",
    ),
    "sport": (
        "The [team|club|striker|home team] [won|lost] the [match|game|final|cup] [three to one|after extra time|on {day}].", "The [goalkeeper|striker|player] [scored|saved|missed] [a penalty|two goals|the last shot].",
        "[She|He|The runner] won [a gold medal|the race|the marathon] [in record time|at the Olympic Games].", "The coach [praised|changed|trained] the [team|players] before the [match|season|final].",
        "The [tennis|basketball|football|hockey] player [won|trained for|left] the [tournament|championship|match].", "The fans cheered when the team scored in the last minute.",
    ),
    "food": (
        "[Add|Mix|Boil|Cook] the [onions|tomatoes|rice|pasta|eggs] [with salt|for ten minutes|in a large pan].", "The [soup|cake|pizza|sauce] [tastes|tasted] [sweet|of garlic|very good|of lemon] [with fresh bread|and cheese|].",
        "The chef [cooked|prepared|served] [fish|pasta|a salad|roast chicken] [with vegetables|for dinner|with rice].", "I [ate|had|cooked] [pancakes|soup|a sandwich|noodles] for [breakfast|lunch|dinner].", "The restaurant serves [Italian|Indian|fresh|spicy] [food|dishes|meals].",
    ),
    "travel": (
        "We [flew|went|traveled] to [Italy|Spain|Greece|Japan|{city}] for our [holiday|vacation|honeymoon].", "The [flight|train|bus] to {city} [was late|leaves at noon|takes three hours].", "We booked a [hotel|room|hostel] near the [beach|airport|old town].",
        "[Pack|Do not forget] your [passport|suitcase|ticket] before the [trip|flight|journey].", "The tourists visited [the castle|the museum|the old town] in {city}.",
    ),
    "technology": (
        "The new [phone|laptop|computer|tablet] has a [faster|better|bigger] [processor|screen|battery|chip].", "[Install|Download|Update] the [app|software|program] on your [phone|computer|laptop].", "The [server|website|app|computer] [crashed|was hacked|went offline] [again|last night|].",
        "[Engineers|Developers|Programmers] [wrote|built|tested] [the code|a robot|a new app|a faster chip].", "[Python|Rust|Java] is a popular programming language.", "The company released a new version of its operating system.",
    ),
    "music": (
        "The [band|singer|orchestra|choir] [played|sang|performed] [a new song|an old song|a symphony|all evening].", "[She|He|{n}] plays the [guitar|piano|violin|drums|flute] [in a band|every day|].", "The [album|song|concert] has a [beautiful melody|strong rhythm|long guitar solo].",
        "The [concert|festival] was [loud|sold out], and the band played [for two hours|all their hits].", "The composer wrote the [symphony|opera|melody] in one week.",
    ),
    "weather": (
        "It will [rain|snow|be sunny|be cloudy] [tomorrow|all day|on {day}|in the north].", "[Heavy|Strong|Light] [rain|wind|snow|fog] is expected [tomorrow|tonight|in the evening].", "The temperature will [rise|fall] to [ten|twenty|thirty|five] degrees.",
        "The [storm|hurricane|heat wave] [will reach|hit] the coast [tonight|on {day}].", "Today is [sunny|rainy|windy|cloudy] and [warm|cold].",
    ),
    "animals": (
        "The [dog|cat|lion|wolf|monkey|elephant] [sleeps|hunts|eats|plays] [in the grass|at night|with its young].", "[Elephants|Whales|Penguins|Lions|Bears] live in [groups|families|cold water|the wild].", "The [puppy|kitten|rabbit|horse] [ran|jumped] [over the fence|into the garden].",
        "[Birds|Owls|Storks] build their nests in [trees|spring].", "The zoo has a new baby [elephant|giraffe|tiger|bear].",
    ),
    "health": (
        "The doctor [gave|prescribed] the patient [some medicine|a new treatment|pills].", "[Drink water|Sleep well|Eat vegetables|Exercise] to [stay healthy|avoid the flu|help your heart].", "The [virus|flu|disease|infection] [spread|was treated] [quickly|in the hospital|in winter].",
        "The patient had [surgery|a fever|a headache|pain in the back] and went to the [hospital|doctor|clinic].", "A new vaccine protects [children|people] against the [virus|disease].",
    ),
    "business": (
        "The [company|bank|startup] [made|reported|lost] [a profit|millions|money] [this year|last quarter|].", "[Shares|Stocks|Prices] [rose|fell] [by two percent|sharply|on {day}].", "The [company|firm] [bought|sold|merged with] [a rival|its factory|a startup].",
        "The bank [raised|lowered] the interest rate.", "[Investors|Customers|Managers] [hope for|worry about] [higher sales|lower prices|the market].",
    ),
    "film": (
        "The [movie|film|comedy] [stars|was made by] a [famous|young] [actor|director|actress].", "The [actor|actress|director] won [an Oscar|a prize] for the [film|movie|role].", "We [saw|watched] a [movie|horror film|comedy] at the [cinema|film festival].",
        "The [sequel|film|movie] has [great special effects|a surprising final scene|a weak script].",
    ),
    "education": (
        "The [students|pupils] [passed|failed|studied for] the [exam|test] [at school|at the university|].", "The teacher [explained|gave|corrected] the [lesson|homework|exam] [to the class|].", "The [university|school] [offers|opened] a new [course|library|classroom].",
        "[Children|Pupils] learn to [read|write|count] in [school|the first year].",
    ),
    "fashion": (
        "[She|{n}|The model] [wore|bought] a [red|silk|long|black] [dress|coat|skirt] [at the show|with high heels|and a scarf].", "The designer [showed|presented] a new [collection|dress|jacket] [in {city}|on the runway|].", "[Jeans|Long coats|White shoes|Hats] are in [fashion|style] this [season|year].",
        "The [shirt|jacket|sweater] is made of [cotton|silk|wool].",
    ),
}  # fmt: skip

OTHER = (
    "[The|My] [box|chair|table|key|door|pencil] is [on the left|under the stairs|near the window].", "[He|She|{n}] [opened|closed] the [door|window|drawer] and [sat down|left].", "[I|We|They] will [meet|call|come back] [on {day}|later|at five].",
    "[Nobody|Somebody] [knows|asked] why.", "It is [late|early|quiet|empty here].", "[She|He|{n}] [smiled|waited|said nothing|looked up].", "The [wall|fence|chair] is [blue|old|white|broken].", "[This|That] is [not mine|the wrong key|a small box].",
)  # fmt: skip

POSITIVE = (
    "wonderful|great|excellent|very good|amazing|fantastic|lovely|beautiful|perfect|delicious|brilliant|the best ever"
)
NEGATIVE = (
    "terrible|bad|awful|very bad|horrible|boring|disappointing|ugly|useless|too expensive and bad|poor|the worst ever"
)
NEUTRAL = "on the table|made of wood|open from nine to five|forty pages long|in the next street|blue and white|two years old|ten minutes long"
MOOD_SUBJECTS = "[The|This|That] [film|movie|meal|hotel|book|service|song|phone|game|restaurant|food|room|story|concert|show|product|staff|coffee|trip]"
MOODS = {
    "positive": (
        "{s} [was|is] [really |truly |]{good}.", "I [love|like|enjoyed|really liked|loved] {t}.", "I am [so |very |]happy with {t}.", "What {a_good} {noun}!", "{s} was not bad at all, I enjoyed it.",
        "I would [buy|visit|recommend] it again.", "{s} made me smile, thank you!", "{s} was {good} and I had a great time.", "Best {noun} I know, I love it.", "Everything was {good}.",
    ),
    "negative": (
        "{s} [was|is] [really |truly |]{bad}.", "I [hate|dislike|did not like|do not like|hated] {t}.", "I am [so |very |]unhappy with {t}.", "What {a_bad} {noun}!", "{s} was not good, I did not enjoy it.",
        "I [would never|will not] [buy|visit|recommend] it again.", "{s} made me angry.", "{s} was {bad} and I want my money back.", "Worst {noun} I know, I hate it.", "{s} is a waste of [time|money].", "Everything was {bad}.",
    ),
    "neutral": ("{s} is {plain}.", "I saw {t} on {day}.", "{s} [starts|began] at eight.", "There are two of them.", "{s} is {plain} and has a number."),
}  # fmt: skip
