"""What metrics are called: in reports, in tables, and wherever one is looked for among others."""

BLEU, CHRF, CHRF_PLUS_PLUS, TER, COMET = "BLEU", "chrF2", "chrF2++", "TER", "COMET"
EXACT_MATCH, TOKEN_ERROR_RATE, CHARACTER_ERROR_RATE = "exact match", "token error rate", "character error rate"
