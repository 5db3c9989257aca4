"""What a user can put right."""


class UserError(ValueError):
    """Bad input, and not a defect of ours: the message is one sentence that says what was wrong and what to do.

    Every command, endpoint and page shows it as it is; anything else keeps its traceback.
    """
