"""Names that columns of published data sets often have, in lower case; the first of a list is preferred."""

from __future__ import annotations

TEXTS = (
    "text", "texts", "review", "review_text", "reviewtext", "review_body", "sentence", "content", "body",
    "comment", "comment_text",
    "tweet", "message", "post", "document", "article", "passage", "utterance", "description", "abstract", "headline",
    "title", "question", "input", "prompt", "query", "verbatim", "feedback", "note", "v2",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "category", "categories", "sentiment", "target", "intent", "topic", "topics",
    "stars", "star",
    "star_rating", "rating", "polarity", "gold_label", "emotion", "emotions", "genre", "genres", "tags",
    "type", "language", "lang", "spam",
    "is_spam", "toxic", "airline_sentiment", "y", "v1", "output", "answer", "diagnosis", "species", "score",
)  # fmt: skip
SCORES = (
    "score", "similarity", "similarity_score", "relatedness_score", "stars", "rating", "price", "value", "target",
    "label", "points", "y",
)  # fmt: skip
ORDERED = {"score", "rating", "stars", "star", "star_rating", "points", "similarity", "price", "value"}
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("question1", "question2"),
    ("text_a", "text_b"), ("text1", "text2"), ("text_1", "text_2"), ("sentence_a", "sentence_b"), ("query", "passage"),
    ("query", "document"), ("question", "sentence"), ("question", "passage"), ("claim", "evidence"), ("text", "pair"),
)  # fmt: skip
TARGETS = (
    ("text", "target"), ("source", "target"), ("src", "tgt"), ("src", "trg"), ("article", "highlights"),
    ("document", "summary"), ("article", "summary"), ("dialogue", "summary"), ("text", "summary"), ("body", "title"),
    ("input", "target"), ("input_text", "target_text"), ("original", "corrected"), ("text", "headline"),
)  # fmt: skip
FOUND = (("anchor", "positive"), ("query", "positive"), ("question", "positive"))  # what lies near to each other
INSTRUCTIONS = (("instruction", "prompt"), ("input",), ("output", "response", "completion", "answer", "reply"))
LANGUAGES = {
    "ar", "bg", "bn", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu",
    "id", "it", "ja", "ko",
    "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "sw", "ta", "th", "tr",
    "uk", "ur", "vi", "zh",
    "english", "german", "french", "spanish", "chinese", "russian", "italian", "portuguese", "dutch", "japanese",
}  # fmt: skip
WORDS = ("words", "tokens", "sentence", "text")
TAGS = ("tags", "ner_tags", "labels", "ner", "pos_tags", "upos", "pos", "chunk_tags")
GROUPS = (
    "group", "author", "author_id", "user", "user_id", "userid", "username", "patient", "patient_id", "subject",
    "subject_id", "speaker", "speaker_id", "doc_id", "document_id", "session_id", "conversation_id",
)  # fmt: skip
IDENTIFIERS = {"id", "idx", "index", "uid", "guid", "uuid", "key", "row", "row_id", "unnamed:_0", "pairid"}
