"""Which test checks which file and array of a golden folder. What nobody claims fails `test_dcfl_golden_manifest`."""

LEVEL = "p[3-7]"
VARIANT = r"k\d+_q\d+_g\d\d(?:_headcoder(?:_grid)?)?"
INPUTS = "inputs"
INFORMATION = "information only, says the README of the golden numbers"

# (pattern of the file, {regular expression of arrays: the module that checks them})
CLAIMS = (
    (
        "assigner/*.npz",
        {
            "image_size|level_counts|gt_boxes|gt_labels|grid_priors|priors|cls_logits|bbox_deltas": INPUTS,
            rf"(?:s64|f32|h16)_(?:coarse_k\d+|medium_k\d+_q\d+|final_{VARIANT}|labels)|s64_max_similarity": "assigner",
            rf"s64_(?:final_{VARIANT}|medium_k\d+_q\d+)_topq_position": "assigner",
            r"(?:s64|f32)_(?:candidate_(?:index|gt|quality|gate)|topq_(?:position|quality)|mixture_centre)": "assigner",
            r"s64_(?:top24_(?:similarity|index)|similarity_matrix)": "assigner",
            # What the published float32 and float16 arithmetic gives on the way to the maps.
            r"(?:h16|f32)_(?:.*_topq_position|max_similarity|top24_\w+|similarity_matrix)|h16_.*": INFORMATION,
        },
    ),
    ("detector/*/weights.npz", {".*": "detector"}),
    (
        "detector/*/forward_*.npz",
        {
            "image": INPUTS,
            f"backbone_c[2-5]|(?:fpn|cls_score|bbox_pred|offset|mask)_{LEVEL}": "detector",
            f"tower_(?:cls|reg)_convs_[0-3]_{LEVEL}": "detector",
            r"pre_\w+_(?:boxes|scores)|det_\w+_(?:boxes|scores|labels)|det_rescaled_boxes": "detections",
        },
    ),
    (
        "detector/*/loss_*.npz",
        {
            rf"images|gt_(?:boxes|labels)_\d+|(?:cls_score|bbox_pred|offset)_{LEVEL}": INPUTS,
            r"moved_priors_\d+|assigned_gt_inds_\d+|positives_per_image|num_total_samples": "losses",
            r"loss_(?:cls|bbox)_(?:per_level|total)": "losses",
            rf"grad_(?:bbox_pred|cls_score|offset)_{LEVEL}|grad:.+": "losses",
        },
    ),
    (
        "parts/gjsd.npz",
        {
            r"r\d+_(?:gt|priors)|check_(?:gt|prior)_f64": INPUTS,
            r"r\d+_gjsd_f64|check_gjsd_f64": "parts",
            r"r\d+_(?:gjsd|similarity)_official_float32": INFORMATION,
        },
    ),
    (
        "parts/coder.npz",
        {
            "priors|deltas|boxes": INPUTS,
            r"(?:de|en)code_head(?:_clamped_\d+x\d+|_le90|_oc)?|decode_assigner_default": "parts",
        },
    ),
    ("parts/focal.npz", {"logits|labels|weights": INPUTS, r"loss_elements|loss_sum_over_\d+|grad_logits": "parts"}),
    (
        "parts/rotated_iou.npz",
        {"boxes[12]|kind": INPUTS, "(?:official|exact)_io[uf](?:_f64)?": "parts"},
    ),
    (
        "parts/rotated_iou_loss.npz",
        {
            "pred|target|weight": INPUTS,
            r"exact_iou_f64|loss_(?:log|linear|square)|grad_pred_(?:log|linear|square)": "parts",
            r"grad_pred_log_run_in_float64_f64|loss_log_weighted_over_\d+": "parts",
        },
    ),
    (
        "parts/deform_conv.npz",
        {
            r"dcn\d+_(?:input|offset|mask|weight|upstream)|ring\d+_(?:input|weight)": INPUTS,
            r"dcn\d+_(?:output|grad_(?:input|offset|mask|weight))|ring\d+_output": "parts",
        },
    ),
    ("parts/priors.npz", {r"(?:priors|level_counts)_\d+x\d+": "parts"}),
    (
        "parts/polygons.npz",
        {
            "quads|boxes|angles_f64": INPUTS,
            r"dataset_\w+_f64|tensor_\w+|to_poly(?:_ordered)?_\w+|norm_angle_\w+_f64": "geometry",
        },
    ),
    (
        "parts/nms.npz",
        {
            r"s\d+_(?:boxes|scores)|m\d+_(?:boxes|scores_with_background)": INPUTS,
            r"[sm]\d+_keep|m\d+_det_(?:boxes|scores|labels)": "geometry",
        },
    ),
    ("parts/merge.npz", {"labels|boxes|scores": INPUTS, r"merged_class\d+": "geometry"}),
    (
        "parts/flips.npz",
        {"boxes": INPUTS, "(?:le135|le90|oc)_(?:horizontal|vertical|diagonal)": "geometry"},
    ),
    (
        "parts/map.npz",
        {
            "(?:det|gt)_(?:boxes|scores|image|label|ignore)": INPUTS,
            r"(?:voc07|area)_\d+_(?:ap_f64|num_gts|num_dets|last_(?:recall|precision)_f64)": "geometry",
            r"(?:voc07|area)_\d+_(?:recall|precision)_curve_class\d+_f64": "geometry",
        },
    ),
)
