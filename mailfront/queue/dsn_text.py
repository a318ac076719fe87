"""What a notice says to a person, in English and Spanish: what happened, to whom, and what to do. Pure.

The machine's part of a notice (RFC 3464) is made in `dsn`; here is only its first part. The texts are chosen by what
happened and by the class of the status code (RFC 3463), never by the words of another server; those are quoted.
"""

import re
from dataclasses import dataclass
from enum import Enum


class NoticeKind(Enum):
    """What a notice is about; the value is its Action field (RFC 3464 section 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class _Words:
    """All sentences of one language. `advice` is by status: the longest key that the status begins with."""

    subject: dict[NoticeKind, str]
    opening: dict[NoticeKind, str]
    advice: dict[str, str]
    maybe: str
    said: str
    through: str
    retried: str
    sent: str
    about: str
    contact: str
    attached_whole: str
    attached_headers: str


_EN = _Words(
    subject={
        NoticeKind.FAILED: "Your message could not be delivered",
        NoticeKind.DELAYED: "Your message is late; nothing to do yet",
        NoticeKind.DELIVERED: "Your message was delivered",
        NoticeKind.RELAYED: "Your message was passed on",
        NoticeKind.EXPANDED: "Your message was passed on to several people",
    },
    opening={
        NoticeKind.FAILED: "Your message could not be delivered to the addresses below. No further attempt is made.",
        NoticeKind.DELAYED: "Your message could not be delivered yet. You need not send it again: the attempts go on.",
        NoticeKind.DELIVERED: "You asked to be told: your message was delivered to the addresses below.",
        NoticeKind.RELAYED: "Your message was passed on to a server that does not confirm deliveries. If it cannot be "
        "delivered there, you will hear of it.",
        NoticeKind.EXPANDED: "The addresses below stand for several people; your message was passed on to them. You "
        "will not hear of each of them.",
    },
    advice={
        "x.1.1": "There is no such mailbox. Check the spelling of the address.",
        "x.1.": "The address is not right. Check its spelling.",
        "x.2.1": "The mailbox takes no mail. Reach the person in another way.",
        "x.2.2": "The mailbox is full. Try again later, or reach the person in another way.",
        "x.2.3": "The message is larger than this mailbox accepts. Send it in parts, or send a link.",
        "x.3.4": "The message is too large. Send it in parts, or send a link.",
        "x.4.6": "The message went in a circle. The administrator of the address has to mend its forwarding.",
        "x.4.7": "It could not be delivered in the time that it may take. Send it again later, or reach the person in "
        "another way.",
        "x.5.": "The servers did not understand each other. The administrators have to look into it.",
        "x.6.": "The message's form is not accepted there. Send it in a simpler form: plain text, without attachments.",
        "x.7.": "The message was refused there by a rule. If you think it wrong, ask the administrator of the "
        "address in another way.",
        "4.": "It could not be delivered in the time that it may take. Send it again later.",
        "": "It was refused there. If the text below does not help, ask the administrator of the address.",
    },
    maybe="It may have arrived all the same: the answer of the other server was lost.",
    said="The other server said",
    through="It was sent on by",
    retried="Attempts are made until",
    sent="It was sent on",
    about="Its subject",
    contact="Questions about this mail system",
    attached_whole="Your message is attached.",
    attached_headers="The headers of your message are attached.",
)

_ES = _Words(
    subject={
        NoticeKind.FAILED: "Su mensaje no se pudo entregar",
        NoticeKind.DELAYED: "Su mensaje se retrasa; por ahora no haga nada",
        NoticeKind.DELIVERED: "Su mensaje fue entregado",
        NoticeKind.RELAYED: "Su mensaje fue transmitido",
        NoticeKind.EXPANDED: "Su mensaje fue transmitido a varias personas",
    },
    opening={
        NoticeKind.FAILED: "Su mensaje no se pudo entregar a las direcciones siguientes. No se harán más intentos.",
        NoticeKind.DELAYED: "Su mensaje todavía no se pudo entregar. No hace falta enviarlo otra vez: los intentos "
        "continúan.",
        NoticeKind.DELIVERED: "Usted pidió confirmación: su mensaje fue entregado a las direcciones siguientes.",
        NoticeKind.RELAYED: "Su mensaje pasó a un servidor que no confirma las entregas. Si allí no se puede entregar, "
        "usted recibirá un aviso.",
        NoticeKind.EXPANDED: "Las direcciones siguientes representan a varias personas; su mensaje pasó a ellas. No "
        "recibirá un aviso de cada una.",
    },
    advice={
        "x.1.1": "Ese buzón no existe. Compruebe cómo está escrita la dirección.",
        "x.1.": "La dirección no es correcta. Compruebe cómo está escrita.",
        "x.2.1": "El buzón no admite correo. Contacte con la persona por otro medio.",
        "x.2.2": "El buzón está lleno. Inténtelo más tarde o contacte con la persona por otro medio.",
        "x.2.3": "El mensaje es más grande de lo que admite ese buzón. Envíelo por partes o envíe un enlace.",
        "x.3.4": "El mensaje es demasiado grande. Envíelo por partes o envíe un enlace.",
        "x.4.6": "El mensaje dio vueltas en círculo. El administrador de la dirección debe corregir el reenvío.",
        "x.4.7": "No se pudo entregar en el plazo previsto. Envíelo más tarde o contacte con la persona de otro modo.",
        "x.5.": "Los servidores no se entendieron. Los administradores deben examinarlo.",
        "x.6.": "Allí no se admite la forma del mensaje. Envíelo más sencillo: solo texto, sin adjuntos.",
        "x.7.": "El mensaje fue rechazado allí por una norma. Si cree que es un error, pregunte por otro medio al "
        "administrador de la dirección.",
        "4.": "No se pudo entregar en el plazo previsto. Envíelo más tarde.",
        "": "Fue rechazado allí. Si el texto siguiente no le ayuda, pregunte al administrador de la dirección.",
    },
    maybe="Es posible que haya llegado: se perdió la respuesta del otro servidor.",
    said="El otro servidor dijo",
    through="Lo reenvió",
    retried="Habrá intentos hasta",
    sent="Fue enviado el",
    about="Su asunto",
    contact="Preguntas sobre este sistema de correo",
    attached_whole="Se adjunta su mensaje.",
    attached_headers="Se adjuntan los encabezados de su mensaje.",
)

_WORDS = {"en": _EN, "es": _ES}
_LANGUAGE_HEADER = re.compile(
    rb"^(?:Content-Language|Accept-Language)[ \t]*:[ \t]*([A-Za-z0-9,;=.\- \t*]{1,200})", re.IGNORECASE | re.MULTILINE
)


def words_of(language: str) -> _Words:
    """The sentences of a language; English for one that is not known here."""
    return _WORDS.get(language, _EN)


def language_of(header: bytes, otherwise: str) -> str:
    """The first known language that a message's Content-Language or Accept-Language names, else `otherwise`."""
    for match in _LANGUAGE_HEADER.finditer(header):
        for part in match[1].split(b","):
            name = part.split(b";")[0].strip().split(b"-")[0].decode().lower()
            if name in _WORDS:
                return name
    return otherwise


def advice_for(words: _Words, status: str) -> str:
    """What to do about a failure with this status code."""
    generic = f"x{status[1:]}"
    fitting = [key for key in words.advice if generic.startswith(key) or (key and status.startswith(key))]
    return words.advice[max(fitting, key=len, default="")]
