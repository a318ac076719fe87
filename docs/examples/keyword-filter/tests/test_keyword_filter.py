"""The filter says what its settings ask for. No server is needed to find that out."""

import pytest
from keyword_filter import KeywordFilter, KeywordSettings

from mailfront.base.clock import SystemClock
from mailfront.base.ids import new_message_id
from mailfront.filters.contract import FilterContext, Mail, Message, Recipient
from mailfront.filters.hosts import Hosts
from mailfront.mail.address import Address
from mailfront.mail.body import MemoryBody
from mailfront.mail.client import ClientInfo
from mailfront.mail.verdict import CONTINUE, Action, AddHeader

CLIENT = ClientInfo(ip="192.0.2.1", port=25)
ID = new_message_id(0.0)


def filter_with(**settings: object) -> KeywordFilter:
    context = FilterContext(
        name="keyword",
        hostname="mx1.example.edu",
        clock=SystemClock(),
        timeout_s=10.0,
        hosts=lambda addresses: Hosts((), SystemClock(), 10.0),
    )
    return KeywordFilter(KeywordSettings.model_validate({"words": ["Lottery"], **settings}), context)


def message(subject: str) -> Message:
    header = f"From: ann@example.org\r\nSubject: {subject}\r\n".encode()
    return Message(
        id=ID,
        client=CLIENT,
        reverse_path=Address("ann", "example.org"),
        recipients=(Recipient(address=Address("ana", "example.edu")),),
        header_bytes=header,
        body=MemoryBody(header + b"\r\nhello\r\n"),
        arrived_s=0.0,
        hostname="mx1.example.edu",
    )


def test_other_mail_passes() -> None:
    assert filter_with().data(message("lunch")) is CONTINUE


@pytest.mark.parametrize("subject", ["You won the LOTTERY", "=?utf-8?q?You_won_the_l=6Fttery?="])
def test_a_word_is_found_and_marked(subject: str) -> None:
    assert filter_with().data(message(subject)).edits == (AddHeader("X-Keyword", "lottery"),)


@pytest.mark.parametrize(("found", "action"), [("quarantine", Action.QUARANTINE), ("reject", Action.REJECT)])
def test_the_settings_decide_what_follows(found: str, action: Action) -> None:
    assert filter_with(found=found).data(message("lottery")).action is action


def test_a_sender_is_refused_at_mail() -> None:
    refusing = filter_with(refused_senders=["Ann@example.org"])
    mail = Mail(id=ID, client=CLIENT, reverse_path=Address("ann", "example.org"))
    assert refusing.mail(mail).action is Action.REJECT
