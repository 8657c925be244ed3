"""Why the ledger refuses what concerns namespaces and the names directly below them: a further leaf of `rejections`."""

from __future__ import annotations

from blockcloud.service_chain.rejections import Failed


class UnknownNamespace(Failed):
    """No such namespace was opened."""

    code = "unknown_namespace"


class NamespaceTaken(Failed):
    """The namespace was opened by somebody before."""

    code = "namespace_taken"


class NamespaceIsReady(Failed):
    """The namespace is ready: its owner puts no more names in, everybody registers them."""

    code = "namespace_is_ready"


class NamespaceNotReady(Failed):
    """Until the namespace is ready, only its owner puts names in."""

    code = "namespace_not_ready"
    hint = "Wait until its owner says that it is ready, or until it lapses."


class NamespaceLapsed(Failed):
    """The namespace was not made ready in time; anybody may open it anew."""

    code = "namespace_lapsed"


class NotNamespaceOwner(Failed):
    """The sender did not open the namespace."""

    code = "not_namespace_owner"


class LabelIsName(Failed):
    """A label that is registered as a name cannot be opened as a namespace."""

    code = "label_is_name"
    hint = "The owner of the name can give it up and open the namespace in one transaction."


class LabelIsNamespace(Failed):
    """A label that is an open namespace cannot be registered as a name."""

    code = "label_is_namespace"


class NamespaceRuleOutOfBounds(Failed):
    """A price, lifetime or grace is larger than this chain allows."""

    code = "namespace_rule_out_of_bounds"


class ParentNotHeld(Failed):
    """In a namespace only names directly below its label are open to all, and nobody holds one above this name."""

    code = "parent_not_held"
    hint = "Register the name above first."


class PriceAboveLimit(Failed):
    """The namespace asks more for the name than the operation allows."""

    code = "price_above_limit"
    hint = "`blockcloud namespace show` has the prices."
