"""What a gate has come to know that others must act on or write down."""

from msgspec import Struct, field

from hes.model import EmailId, Fact, FactKey


class News(Struct, kw_only=True):
    """Gathered by a gate, taken by the gatekeeper."""

    opened: bool = False
    """It can be used again: what waits for it need not wait longer."""
    stated: dict[FactKey, Fact] = field(default_factory=dict)
    withdrawn: set[FactKey] = field(default_factory=set)
    victims: list[EmailId] = field(default_factory=list)
    """Emails that failed by its word, which does not count any more."""

    def __bool__(self) -> bool:
        return self.opened or bool(self.stated or self.withdrawn or self.victims)

    def state(self, fact: Fact) -> None:
        self.withdrawn.discard(fact.key)
        self.stated[fact.key] = fact

    def withdraw(self, key: FactKey) -> None:
        self.stated.pop(key, None)
        self.withdrawn.add(key)

    def then(self, later: "News") -> "News":
        """Both, where the later one knows better."""
        self.withdrawn -= later.stated.keys()
        self.stated |= later.stated
        for key in later.withdrawn:
            self.withdraw(key)
        self.opened |= later.opened
        self.victims += later.victims
        return self
