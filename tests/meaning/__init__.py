"""That a gateway does with a request what LLMKube's router-proxy would: two evaluators that know nothing of
epp."""
