"""From the findings of all filters to one ruling per recipient. Pure: the same findings give the same rulings.

| findings that bind a recipient | its ruling |
|---|---|
| any reject | reject, with the text of the first in declared order |
| else any tempfail | tempfail, likewise |
| else any quarantine or hold | quarantine, or hold if nobody wants quarantine |
| else any discard, or its removal | discard |
| else | continue |

Whatever the ruling is, the edits of all findings that bind the recipient come with it, in declared order: what is held
and released later is delivered as it would have been.

`one_reply` is for SMTP, where all recipients hear the same: the mildest ruling decides, and who got a harder one is
quarantined while the others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailfront.filters.contract import Finding
from mailfront.filters.edits import deleted_recipients
from mailfront.mail.address import Address
from mailfront.mail.verdict import Action, DeleteRecipient, Edit

_HARDEST_FIRST = (Action.REJECT, Action.TEMPFAIL, Action.QUARANTINE, Action.HOLD, Action.DISCARD)
_ACCEPTED = (Action.CONTINUE, Action.DISCARD, Action.HOLD, Action.QUARANTINE)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to become of one recipient's copy. `by`: the finding that decided; None if nobody objects.

    `edits` are those that its copy gets; recipients with equal edits share one version of the message. `reason` is for
    people.
    """

    action: Action
    by: Finding | None
    edits: tuple[Edit, ...]
    reason: str = ""

    @property
    def removes(self) -> bool:
        """Whether this recipient was taken out, while the message as such was not thrown away."""
        return self.action is Action.DISCARD and self.by is not None and self.by.verdict.action is not Action.DISCARD


_PASSED = Ruling(Action.CONTINUE, None, ())


def arbitrate(findings: Sequence[Finding], recipients: Sequence[Address]) -> tuple[Ruling, ...]:
    """One ruling per recipient. `findings` are in the order in which the filters are declared."""
    obeyed = [finding for finding in findings if not finding.shadow and _says_something(finding)]
    if not obeyed:
        return (_PASSED,) * len(recipients)
    if all(finding.binds is None for finding in obeyed) and not _deletes(obeyed):
        return (_ruling(obeyed),) * len(recipients)
    return tuple(
        _of_recipient([each for each in obeyed if each.binds is None or index in each.binds], address)
        for index, address in enumerate(recipients)
    )


def one_reply(rulings: Sequence[Ruling]) -> tuple[Ruling, ...]:
    """The rulings when all recipients hear one reply; see the module."""
    accepted = [ruling for ruling in rulings if ruling.action in _ACCEPTED]
    if len(accepted) == len(rulings):
        return tuple(rulings)
    if accepted:
        return tuple(ruling if ruling.action in _ACCEPTED else _quarantined(ruling) for ruling in rulings)
    # Nobody is accepted: the client keeps it, and one that may try again tries for all.
    mild = next((ruling for ruling in rulings if ruling.action is Action.TEMPFAIL), rulings[0])
    return (mild,) * len(rulings)


def rejects_everybody(finding: Finding) -> bool:
    """Whether this finding alone decides the message: then nobody else need be asked."""
    return finding.verdict.action is Action.REJECT and finding.binds is None and not finding.shadow


def _says_something(finding: Finding) -> bool:
    return finding.verdict.action is not Action.CONTINUE or bool(finding.verdict.edits)


def _deletes(findings: Sequence[Finding]) -> bool:
    return any(isinstance(edit, DeleteRecipient) for finding in findings for edit in finding.verdict.edits)


def _of_recipient(findings: Sequence[Finding], address: Address) -> Ruling:
    if not findings:
        return _PASSED
    ruling = _ruling(findings)
    if ruling.action is Action.CONTINUE:
        for finding in findings:
            if address.key in deleted_recipients(finding.verdict.edits):
                return Ruling(Action.DISCARD, finding, ruling.edits, f"{finding.filter}: recipient removed")
    return ruling


def _ruling(findings: Sequence[Finding]) -> Ruling:
    edits = tuple([edit for finding in findings for edit in finding.verdict.edits])
    for action in _HARDEST_FIRST:
        for finding in findings:
            if finding.verdict.action is action:
                said = finding.error or finding.verdict.reason or action.value
                return Ruling(action, finding, edits, f"{finding.filter}: {said}")
    return Ruling(Action.CONTINUE, None, edits)


def _quarantined(ruling: Ruling) -> Ruling:
    return replace(ruling, action=Action.QUARANTINE, reason=f"{ruling.reason} (other recipients were accepted)")
