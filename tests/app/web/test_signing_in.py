from __future__ import annotations

from cardferry.app.web.signing_in import LIFE, MOST, SigningIn, WebSession


class Links:
    """Sign-in with a clock that a test moves, and the links that were told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.links: list[str] = []
        self.signing_in = SigningIn(self.links.append, lambda: self.now)
        self.signing_in.offer()

    def sign_in(self) -> WebSession:
        session = self.signing_in.use(self.links[-1])
        assert session is not None
        return session


def test_a_link_is_good_once_and_there_is_another_one() -> None:
    links = Links()
    session = links.sign_in()
    assert links.signing_in.find(session.key) is session
    assert links.signing_in.use(links.links[0]) is None
    assert len(set(links.links)) == 2
    assert links.sign_in() is not session


def test_wrong_links_are_counted_and_good_for_nothing() -> None:
    links = Links()
    for secret in ("", "x", links.links[0][:-1], links.links[0] + "x", "\udcff"):
        assert links.signing_in.use(secret) is None
    assert links.signing_in.wrong == 5
    assert links.signing_in.use(links.links[0]) is not None


def test_before_there_is_a_link_nothing_is_good() -> None:
    assert SigningIn(lambda secret: None).use("") is None


def test_a_session_ends() -> None:
    links = Links()
    one, two = links.sign_in(), links.sign_in()
    links.signing_in.end(one)
    assert links.signing_in.find(one.key) is None
    assert links.signing_in.find(two.key) is two
    links.now = LIFE
    assert links.signing_in.find(two.key) is None
    assert two.over
    assert links.signing_in.find(None) is links.signing_in.find("") is None


def test_there_are_not_more_than_so_many() -> None:
    links = Links()
    first, *others = [links.sign_in() for _ in range(MOST + 1)]
    assert first.over
    assert all(links.signing_in.find(one.key) is one for one in others)


def test_a_token_is_of_one_session() -> None:
    links = Links()
    one, two = links.sign_in(), links.sign_in()
    assert links.signing_in.proves(one, one.token)
    assert not links.signing_in.proves(one, two.token)
    assert not links.signing_in.proves(one, "")
    assert one.key not in repr(one)
    assert one.token not in repr(one)
