"""Looking ahead: what a configuration would do with the mail, told before it does.

`forecast` is arithmetic over caps and shares, `simulation` runs the real router on a virtual clock.
"""
