"""The host's pages: a shell, a style sheet and a few modules; hostd serves them as they are.

They speak VI/JSON with the session of whoever logged in, and nothing else: what the interface
refuses, the pages cannot do either. Nothing comes from elsewhere, and text from the host is only
ever put into text nodes.
"""
