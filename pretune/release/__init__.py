"""What is done with a trained model: comparison, promotion, prediction, export, reproduction."""
