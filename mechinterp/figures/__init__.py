"""Pictures: a Result in, a plotly Figure out."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from mechinterp.figures.ablation import pair_maps, pruning_curve
from mechinterp.figures.attention import circuit_grid, head_map, match_bars, pattern_grid, score_bars
from mechinterp.figures.automata import (
    agreement_lines,
    comparison_lines,
    swap_bars,
    sweep_dots,
    transition_grid,
)
from mechinterp.figures.codes import (
    code_state_map,
    machine_maps,
    position_lines,
    steering_maps,
    training_dashboard,
)
from mechinterp.figures.digits import (
    alignment_map,
    brought_bars,
    cascade_lines,
    column_map,
    example_grid,
    forcing_dots,
    head_dots,
    longer_bars,
    loss_map,
    match_dots,
    patched_bars,
)
from mechinterp.figures.erasure import erasure_bars, erasure_lines
from mechinterp.figures.frequencies import (
    bars,
    cluster_heatmaps,
    neuron_map,
    phase_map,
    rings,
    sufficiency_bars,
)
from mechinterp.figures.geometry import collapse_lines, similarity_map, singular_values
from mechinterp.figures.in_context import (
    agreement_bars,
    attention_rows,
    comparison_table,
    error_lines,
    layer_bars,
    ratio_dots,
    shift_map,
    smoother_bars,
    step_maps,
    training_losses,
    variant_lines,
)
from mechinterp.figures.lens import attribution_bars, edge_maps, lens_lines, node_maps
from mechinterp.figures.probes import belief_maps, code_maps, score_maps, wave_lines
from mechinterp.figures.sortedness import (
    accuracy_maps,
    density_lines,
    dilution_lines,
    leak_bars,
    leak_lines,
    length_lines,
    move_bars,
    sharpening_bars,
    shift_lines,
    table_maps,
)
from mechinterp.figures.sweeps import effect_map
from mechinterp.figures.table import value_table
from mechinterp.figures.text import need_dots, reader_bars, trend_lines
from mechinterp.figures.training import progress, score_lines, training_curves
from mechinterp.result import Result

__all__ = ["draw", "known"]

_DRAWN_BY: dict[str, Callable[[Result], go.Figure]] = {
    "training_curves": training_curves,
    "progress": progress,
    "embedding_spectrum": bars,
    "readout_spectrum": bars,
    "logit_frequencies": bars,
    "circles": rings,
    "neuron_frequencies": neuron_map,
    "neuron_clusters": cluster_heatmaps,
    "sufficiency": sufficiency_bars,
    "decay_and_fraction_phase": phase_map,
    "activation_patching": effect_map,
    "ablation": effect_map,
    "path_patching": effect_map,
    "pairwise_ablation": pair_maps,
    "pruning": pruning_curve,
    "attention_patterns": pattern_grid,
    "attention_entropy": head_map,
    "attention_distance": head_map,
    "attention_scores": score_bars,
    "attention_match": match_bars,
    "qk_circuit": circuit_grid,
    "position_circuit": circuit_grid,
    "ov_circuit": circuit_grid,
    "logit_lens": lens_lines,
    "direct_logit_attribution": attribution_bars,
    "attribution_nodes": node_maps,
    "attribution_edges": edge_maps,
    "erasure_effect": erasure_bars,
    "erasure_curve": erasure_lines,
    "sum_erasure": erasure_bars,
    "sum_erasure_first": erasure_bars,
    "difference_erasure_first": erasure_bars,
    "sum_curve": erasure_lines,
    "erasure_curve_first": erasure_lines,
    "sum_attention": head_map,
    "sum_heads": effect_map,
    "residue_heads": effect_map,
    "network_scores": need_dots,
    "residue_readers": reader_bars,
    "scale_trends": trend_lines,
    "rank_collapse": collapse_lines,
    "similarity": similarity_map,
    "singular_values": singular_values,
    "ridge_probe": score_maps,
    "sum_map": score_maps,
    "logistic_probe": score_maps,
    "mlp_probe": score_maps,
    "mlp_regression_probe": score_maps,
    "fourier_probe": wave_lines,
    "period_probe": wave_lines,
    "sum_periods": wave_lines,
    "probe_of_published": wave_lines,
    "simplex_probe": belief_maps,
    "online_code": code_maps,
    "transitions": transition_grid,
    "raw_transitions": transition_grid,
    "state_transitions": transition_grid,
    "agreement_by_length": agreement_lines,
    "agreement_by_position": agreement_lines,
    "agreement_by_state": agreement_lines,
    "state_swap": swap_bars,
    "comparison_along_training": comparison_lines,
    "language_sweep": sweep_dots,
    "training_losses": training_losses,
    "effective_step": step_maps,
    "method_agreement": agreement_bars,
    "deep_agreement": agreement_bars,
    "attention_similarity": attention_rows,
    "softmax_similarity": attention_rows,
    "deep_similarity": attention_rows,
    "error_by_context": error_lines,
    "kernel_smoother": smoother_bars,
    "collapse_without_parts": variant_lines,
    "layer_steps": layer_bars,
    "course_table": comparison_table,
    "shifts": shift_map,
    "higher_d": shift_map,
    "optimum_by_setting": ratio_dots,
    "deep_by_dimension": ratio_dots,
    "exact_matches": match_dots,
    "score_curves": score_lines,
    "cascades": cascade_lines,
    "head_exact_match": loss_map,
    "head_token_accuracy": loss_map,
    "head_loss": loss_map,
    "head_columns": column_map,
    "head_sets": head_dots,
    "column_alignment": alignment_map,
    "component_patching": patched_bars,
    "carry_heads": brought_bars,
    "digit_heads": brought_bars,
    "attention_example": example_grid,
    "teacher_forcing": forcing_dots,
    "more_digits": longer_bars,
    "state_machine": machine_maps,
    "codebook_training": training_dashboard,
    "codebook_training_published": training_dashboard,
    "code_alignment": code_state_map,
    "code_alignment_published": code_state_map,
    "code_alignment_shared": code_state_map,
    "code_alignment_soft": code_state_map,
    "code_alignment_warm": code_state_map,
    "code_alignment_annealed": code_state_map,
    "code_steering": steering_maps,
    "code_steering_shared": steering_maps,
    "score_by_position": position_lines,
    "leaks": leak_bars,
    "leaks_by_length": leak_lines,
    "accuracy_by_length": length_lines,
    "accuracy_by_place": accuracy_maps,
    "accuracy_by_gap": accuracy_maps,
    "accuracy_by_ties": accuracy_maps,
    "accuracy_by_density": density_lines,
    "sharpening": sharpening_bars,
    "attention_dilution": dilution_lines,
    "position_table": table_maps,
    "shift_maps": shift_lines,
    "moved_positions": move_bars,
    "position_moves": move_bars,
    "prefix_max_match": match_bars,
    "prefix_max_at_fall": match_bars,
    "prefix_max_at_fall_dense": match_bars,
    "prefix_max_ablation": effect_map,
    "prefix_max_match_dense": match_bars,
    "prefix_max_ablation_dense": effect_map,
}


def known() -> list[str]:
    """The names of the results that have a figure."""
    return sorted(_DRAWN_BY)


def draw(result: Result) -> go.Figure:
    """The figure of a result, chosen by its name; a table of its values where none is known."""
    if result.name not in _DRAWN_BY:
        return value_table(result)
    figure = _DRAWN_BY[result.name](result)
    if result.learned is False:
        figure.layout.title.text = f"{figure.layout.title.text or result.name} (untested: not learned)"
    return figure
