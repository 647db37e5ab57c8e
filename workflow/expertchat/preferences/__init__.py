"""Stage preferences: pairs of replies of which a person preferred one, from data sets of others."""
