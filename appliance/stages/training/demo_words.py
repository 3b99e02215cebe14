"""The words that the demo model's pretraining text is made of. All written for this project."""

from typing import Final


def _words(text: str) -> list[str]:
    return text.split()


def _pairs(text: str) -> list[list[str]]:
    return [pair.split("-") for pair in text.split()]


FIRST_NAMES: Final = _words(
    """
    Maria Tom Anna Jonas Lena Paul Emma Felix Nora Oscar Ida Hugo Clara Leo Marta Anton Sofia Karl Julia Peter Alice
    Robert Helen David Laura Simon Grace Martin Ruth Daniel Eva Victor Rosa Adam Lucy Henry Olga Ivan Nadia Omar
    Leila Yusuf Amina Carlos Elena Diego Ines Pablo Lucia Marco Chiara Luca Giulia Jean Marie Pierre Camille Louis
    Chloe Kenji Yuki Hana Aiko Wei Mei Ling Chen Raj Priya Anil Asha Kofi Ama Kwame Zola Thabo Lindiwe Erik Ingrid
    Lars Astrid Sven Freya Mikko Aino Pavel Katya Dmitri Vera Tomas Hanna Jakub Zofia Milan Petra George Ellen Frank
    Betty Walter Alma Sam Kate Ben Amy Jack Mia Noah Zoe Max Lily Finn Iris Otto Greta
    """
)
LAST_NAMES: Final = _words(
    """
    Keller Weber Fischer Wagner Becker Hoffmann Koch Richter Klein Wolf Neumann Braun Lange Vogel Brandt Smith Jones
    Brown Taylor Wilson Evans Walker Wright Hall Green Baker Clark Hill Moore Cooper Ward Turner Parker Cook Bell
    Murphy Kelly Reed Gray Fox Garcia Lopez Martinez Perez Sanchez Torres Rivera Gomez Diaz Silva Santos Costa
    Pereira Almeida Rossi Russo Ferrari Bianchi Romano Greco Conti Dubois Moreau Laurent Simon Michel Lefevre Roux
    Tanaka Suzuki Sato Ito Yamada Mori Wang Li Zhang Liu Chen Kumar Singh Patel Sharma Gupta Mensah Owusu Diallo
    Traore Mbeki Dlamini Larsen Hansen Olsen Berg Lund Virtanen Korhonen Novak Kowalski Horvat Popov Ivanov Petrov
    """
)
CITIES: Final = _words(
    """
    Oslo Paris Rome Madrid Berlin Vienna Prague Warsaw Lisbon Dublin London Athens Helsinki Stockholm Copenhagen
    Budapest Zagreb Geneva Hamburg Munich Milan Naples Seville Porto Lyon Bergen Leeds York Bristol Cork Cairo Tunis
    Accra Lagos Nairobi Dakar Delhi Mumbai Tokyo Osaka Kyoto Seoul Hanoi Lima Quito Bogota Boston Denver Dallas
    Chicago Toronto Sydney
    """
)
KINDS: Final = {
    "animal": _words(
        """
        dog cat horse cow sheep goat lion tiger bear wolf fox rabbit mouse duck goose eagle owl snake frog whale
        """
    ),
    "fruit": _words(
        """
        apple pear plum cherry grape lemon orange banana peach melon mango fig apricot
        """
    ),
    "colour": _words("red blue green yellow black white brown grey purple pink"),
    "tool": _words("hammer saw drill wrench shovel rake knife needle scissors ladder axe"),
    "job": _words(
        """
        teacher doctor baker farmer sailor painter driver nurse cook lawyer tailor judge pilot
        """
    ),
    "vehicle": _words("car bus train ship bicycle truck tram ferry plane boat van"),
    "metal": _words("iron gold silver copper tin lead zinc"),
    "instrument": _words("piano violin flute drum guitar trumpet harp cello"),
}
SMALLER_LARGER: Final = _words("mouse cat dog sheep horse elephant whale")
OPPOSITES: Final = _pairs(
    """
    hot-cold big-small old-new early-late loud-quiet hard-soft full-empty light-heavy near-far fast-slow high-low
    open-closed rich-poor strong-weak wet-dry clean-dirty long-short deep-shallow happy-sad bright-dark thick-thin
    sweet-sour cheap-expensive right-wrong first-last day-night up-down left-right inside-outside before-after
    more-less always-never buy-sell give-take win-lose begin-end
    """
)
ADJECTIVES: Final = _words(
    """
    old young tall small quiet happy tired clever careful friendly brave hungry kind busy lonely proud gentle famous
    lazy polite
    """
)
PEOPLE: Final = _words(
    """
    teacher farmer baker girl boy woman man sailor doctor neighbour child painter king queen driver student cook
    nurse judge hunter
    """
)
THINGS: Final = _words(
    """
    book letter basket boat bread key lamp map box bell ring coat hat cup table window door picture flower stone
    ladder song story cake garden wall bridge tower wheel chair knife plate bottle blanket candle mirror rope coin
    bag
    """
)
PLACES: Final = _words(
    """
    house forest garden market river village school kitchen mountain harbour field church station tower island
    street
    """
)
WEEKDAYS: Final = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS: Final = _words(
    """
    January February March April May June July August September October November December
    """
)
# Base form and past.
ACTIONS: Final = _pairs(
    """
    find-found lose-lost carry-carried open-opened paint-painted sell-sold buy-bought make-made break-broke hide-hid
    clean-cleaned bring-brought see-saw forget-forgot draw-drew keep-kept steal-stole wash-washed repair-repaired
    drop-dropped leave-left want-wanted need-needed like-liked take-took hold-held build-built move-moved send-sent
    show-showed
    """
)
# What a made-up word consists of.
SYLLABLE_STARTS: Final = _words("b c d f g h k l m n p r s t v w st tr pl gr sh th br cl")
SYLLABLE_ENDS: Final = _words("a e i o u an en in on er ar or al el ing ight ound ack ell est ame ist")

# Common words that the other lists lack, so that the tokenizer knows them whole.
COMMON: Final = _words(
    """
    the of and to in is it you that he was for on are with as his they at be this from have or by one had not but
    what all were when we there can an your which their said if do will each about how up out them then she many
    some so these would other into has more her two like him see time could no make than been its who now people my
    made over did down only way find use may water long little very after words called just where most know get
    through back much before go good new write our used me man too any day same right look think also around another
    came come work three word must because does part even place well such here take why things help put years
    different away again off went old number great tell men say small every found still between name should home big
    give air line set own under read last never us left end along while might next sound below saw something thought
    both few those always looked show large often together asked house don world going want school important until
    form food keep children feet land side without boy once animals life enough took sometimes four head above kind
    began almost live page got earth need far hand high year mother light parts country father let night following
    picture being study second eyes soon times story boys since white days ever paper hard near sentence better best
    across during today others however sure means knew try told young miles sun ways thing whole hear example heard
    several change answer room sea against top turned learn point city play toward five using himself usually money
    seen car morning given order per cent total price sold each half dollars hours minutes week month cost spent
    many more than less each remaining calculate question step first second third finally therefore because data
    system computer program model language code function value list table text email company business customer
    service market report project team plan health body energy environment science research history art music create
    describe explain provide generate write summarize list identify following information based including process
    method result
    """
)
