"""Game days: several experiments by a plan, with gates, a calendar, and one record of it all."""
