"""What happens to a trained model: promotion, prediction, export, comparison, reproduction."""
