"""Pure tensor functions shared by methods and metrics; they know none of the nouns."""
