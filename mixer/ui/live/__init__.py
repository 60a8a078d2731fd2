"""Running takes: which browser session has which, and the frames that go to the page."""
