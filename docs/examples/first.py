import factshock as fs

found = fs.diagnose(
    {"before": "before.jsonl", "after": "after.jsonl"},
    finetuning="train.jsonl",
    counts="wordfreq:en",
)
print(found.arms[["right", "right_low", "right_high", "rare_seen"]].round(3))
rare = found.entities.query("entity == 'Nigeria' and relation == 'country'")
print(rare[["gold", "finetuning", "predicted_before", "predicted_after"]])
