"""The control process: HTTP for operators and apps, and the events that go out by HTTP.

A companion of the workers with a process of its own: they never import it, and mail never waits for it. It sees and
changes the relay as the command line does, over the control sockets of the workers and in the configuration files.

::

    api, web          paths, words of HTTP; no decision of their own
    services          what can be seen and done, one module for each kind of thing, as plain values
    security, feed, webhooks, workers, store      what services stand on

Pages and API call the same services with the same `Caller`, so there is one truth and one audit trail.
"""
