"""Being told: troubles become issues, issues become notices to targets.

::

    rules, words      what is a trouble, when it is over, when to tell whom, in which words: pure
    store             issues and notices in `alerts.db`
    watch             events and standings in, issues out
    notify, targets   notices out: mail, webhook, Apprise
"""
