"""How long a login is kept waiting because others from there, or at that account, have failed lately. Pure.

A person who mistypes notices nothing; a program that guesses is slowed to a handful of tries a minute. The wait comes
before the password is looked at and is the same for a right one, so that its length says nothing.

An address may stand for many people (a webmail, a dormitory), and anybody can fail at somebody else's account on
purpose. So an address is allowed more failures than an account, and an account never costs its owner more than
`MOST_FOR_ACCOUNT_S`. Addresses in `login.shared_addresses` are not counted at all.
"""

FREE_FOR_ADDRESS = 10.0
FREE_FOR_ACCOUNT = 5.0
FIRST_WAIT_S = 0.5
MOST_FOR_ADDRESS_S = 15.0
MOST_FOR_ACCOUNT_S = 5.0


def wait_s(address_failures: float, account_failures: float) -> float:
    """How long to wait, by the failures that count still."""
    return max(
        _grown(address_failures - FREE_FOR_ADDRESS, MOST_FOR_ADDRESS_S),
        _grown(account_failures - FREE_FOR_ACCOUNT, MOST_FOR_ACCOUNT_S),
    )


def _grown(beyond: float, most_s: float) -> float:
    """Nothing up to the free ones, then half a second, doubled by every failure more."""
    if beyond <= 0.0:
        return 0.0
    doubled: float = 2.0 ** min(beyond - 1.0, 16.0)
    return min(most_s, FIRST_WAIT_S * doubled)
