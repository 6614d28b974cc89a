//! Weight formats against bitsandbytes (`fixtures/smollm2`) and ggml (`fixtures/ggml`), and their properties on any input.

use espalier::Error;
use espalier::quant::double_quant::{self, DoubleQuant, dynamic_map};
use espalier::quant::ggml::{self, GgmlType};
use espalier::quant::nf4::{self, Absmax, Nf4};
use espalier::quant::{WeightBytes, WeightFormat, float16, fp4, int4, int8};
use proptest::prelude::*;
use safetensors::SafeTensors;

static GOLDEN: &[u8] = include_bytes!("fixtures/smollm2/golden/nf4.safetensors");
static GOLDEN_JSON: &str = include_str!("fixtures/smollm2/golden/nf4.json");
static LAYER0: &[u8] = include_bytes!("fixtures/smollm2/layer0_weights.safetensors");
static GGML: &[u8] = include_bytes!("fixtures/ggml/blocks.safetensors");

struct Fixture(SafeTensors<'static>);

impl Fixture {
    fn open(bytes: &'static [u8]) -> Fixture {
        Fixture(SafeTensors::deserialize(bytes).expect("a readable fixture"))
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// `name`, and the f32 weights it was quantized from.
fn golden_weights() -> Vec<(&'static str, Vec<f32>, usize)> {
    let layer0 = Fixture::open(LAYER0);
    let widened = |name: &str| {
        let bytes = layer0.bytes(name);
        let mut out = vec![0.0; bytes.len() / 2];
        float16::decode_f16(bytes, &mut out).unwrap();
        out
    };
    vec![
        ("q_proj", widened("q_proj.weight"), 576),
        ("down_proj", widened("down_proj.weight"), 1536),
        ("gauss", Fixture::open(GOLDEN).f32("gauss.weight"), 576),
    ]
}

#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let wrong = found.iter().zip(expected).enumerate().filter(|(_, (a, b))| a != b);
    let count = wrong.clone().count();
    if let Some((i, (a, b))) = wrong.into_iter().next() {
        panic!("{what}: {count} of {} differ, first at {i}: {a:?}, expected {b:?}", found.len());
    }
}

/// Root mean square error in f64, as the figures of the golden file were made.
fn rmse(found: &[f32], expected: &[f32]) -> f64 {
    let squares = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / found.len() as f64).sqrt()
}

#[track_caller]
fn assert_rmse(tensor: &str, format: &str, found: &[f32], weights: &[f32]) {
    let golden: serde_json::Value = serde_json::from_str(GOLDEN_JSON).unwrap();
    let expected = golden["error_stats"][format!("{tensor}.{format}")]["rmse"].as_f64().unwrap();
    let found = rmse(found, weights);
    // Only the order of the f64 sum of up to 884,736 squares differs.
    assert!((found / expected - 1.0).abs() < 1e-11, "{tensor}.{format}: rmse {found}, expected {expected}");
}

#[test]
fn nf4_equals_bitsandbytes_byte_for_byte() {
    let golden = Fixture::open(GOLDEN);
    assert_same("levels", &nf4::LEVELS, &golden.f32("nf4.code"));
    for (name, weights, _) in golden_weights() {
        let quantized = Nf4::quantize(&weights, false);
        assert_same(name, &quantized.codes, golden.bytes(&format!("{name}.nf4.packed")));
        assert_eq!(quantized.absmax, Absmax::F32(golden.f32(&format!("{name}.nf4.absmax"))), "{name}");
        assert_rmse(name, "nf4", &quantized.dequantize().unwrap(), &weights);
    }
}

#[test]
fn double_quantization_equals_bitsandbytes_byte_for_byte() {
    let golden = Fixture::open(GOLDEN);
    assert_same("map", dynamic_map(), &golden.f32("q_proj.nf4_dq.state2.code"));
    for (name, weights, _) in golden_weights().into_iter().take(2) {
        let quantized = Nf4::quantize(&weights, true);
        assert_same(name, &quantized.codes, golden.bytes(&format!("{name}.nf4_dq.packed")));
        let Absmax::Double(absmax) = &quantized.absmax else { panic!("{name}: absmax in f32") };
        assert_eq!(absmax.offset, golden.f32(&format!("{name}.nf4_dq.offset"))[0], "{name}: offset");
        assert_same(name, &absmax.absmax, &golden.f32(&format!("{name}.nf4_dq.state2.absmax")));
        assert_same(name, &absmax.codes, golden.bytes(&format!("{name}.nf4_dq.absmax_u8")));
        assert_rmse(name, "nf4_dq", &quantized.dequantize().unwrap(), &weights);
    }
}

#[test]
fn fp4_equals_bitsandbytes_byte_for_byte() {
    let golden = Fixture::open(GOLDEN);
    assert_same("levels", &fp4::LEVELS, &golden.f32("fp4.code"));
    for (name, weights, _) in golden_weights() {
        let (mut codes, mut absmax) = (vec![0; fp4::code_bytes(weights.len())], vec![0.0; fp4::blocks(weights.len())]);
        fp4::quantize(&weights, &mut codes, &mut absmax).unwrap();
        assert_same(name, &codes, golden.bytes(&format!("{name}.fp4.packed")));
        assert_same(name, &absmax, &golden.f32(&format!("{name}.fp4.absmax")));
        let mut out = vec![0.0; weights.len()];
        fp4::dequantize(&codes, &absmax, &mut out).unwrap();
        assert_rmse(name, "fp4", &out, &weights);
        if name != "gauss" {
            let double = DoubleQuant::quantize(&absmax);
            assert_same(name, &double.codes, golden.bytes(&format!("{name}.fp4_dq.absmax_u8")));
            fp4::dequantize(&codes, &double.dequantize().unwrap(), &mut out).unwrap();
            assert_rmse(name, "fp4_dq", &out, &weights);
        }
    }
}

#[test]
fn int8_and_int4_have_the_reference_error() {
    for (name, weights, cols) in golden_weights() {
        let mut out = vec![0.0; weights.len()];
        let (mut codes, mut scales) = (vec![0; weights.len()], vec![0.0; weights.len() / cols]);
        int8::quantize(&weights, cols, &mut codes, &mut scales).unwrap();
        int8::dequantize(&codes, cols, &scales, &mut out).unwrap();
        assert_rmse(name, "int8_absmax_row", &out, &weights);

        let (mut codes, mut scales) =
            (vec![0; int4::code_bytes(weights.len())], vec![0.0; int4::blocks(weights.len())]);
        int4::quantize(&weights, &mut codes, &mut scales).unwrap();
        int4::dequantize(&codes, &scales, &mut out).unwrap();
        assert_rmse(name, "int4_absmax_b64", &out, &weights);
    }
}

/// Sizes that use no lane, a part of the lanes, and every level of the cascade; means by torch 2.15 on one thread.
#[test]
fn the_offset_is_the_mean_as_torch_rounds_it() {
    let by_torch = [
        (1, 0.001),
        (7, 0.615_142_8),
        (8, 0.592_500_03),
        (31, 0.527_935_45),
        (33, 0.523_181_86),
        (100, 0.491_499_93),
        (512, 0.500_812_5),
        (8191, 0.500_481_8),
        (40_000, 0.500_5),
        (262_144, 0.500_500_4),
        (1_000_003, 0.500_500_26f32),
    ];
    for (n, expected) in by_torch {
        let values: Vec<f32> = (0..n).map(|i| (i * 7919_u64 % 1000 + 1) as f32 / 1000.0).collect();
        assert_eq!(DoubleQuant::quantize(&values).offset, expected, "{n} values");
    }
}

#[test]
fn double_quantization_of_a_few_values() {
    let one = DoubleQuant::quantize(&[0.75]);
    assert_eq!((one.offset, one.absmax.as_slice(), one.codes.as_slice()), (0.75, &[0.0][..], &[0][..]));
    assert_eq!(one.dequantize().unwrap(), [0.75]);
    let empty = DoubleQuant::quantize(&[]);
    assert_eq!((empty.offset, empty.absmax.len(), empty.dequantize().unwrap().len()), (0.0, 0, 0));
    assert!(DoubleQuant { codes: vec![0; 257], absmax: vec![1.0], offset: 0.0 }.dequantize().is_err());
}

#[test]
fn nf4_of_partial_and_odd_blocks() {
    let weights: Vec<f32> = (0..131).map(|i| (i as f32 * 0.37).sin()).collect();
    let quantized = Nf4::quantize(&weights, false);
    assert_eq!((quantized.codes.len(), nf4::blocks(131)), (66, 3));
    // The last nibble is the code of 0, as bitsandbytes pads.
    assert_eq!(quantized.codes[65] & 15, 7);
    let whole = quantized.dequantize().unwrap();
    let piece = Nf4::quantize(&weights[64..], false).dequantize().unwrap();
    assert_same("a piece from a block's start", &piece, &whole[64..]);
}

#[test]
fn a_nan_weight_is_not_lost() {
    let mut weights = vec![0.5; 192];
    weights[70] = f32::NAN;
    let decoded = Nf4::quantize(&weights, false).dequantize().unwrap();
    assert!(decoded[64..128].iter().all(|w| w.is_nan()));
    assert_eq!(decoded[..64], weights[..64]);
    assert!(Nf4::quantize(&weights, true).dequantize().unwrap().iter().all(|w| w.is_nan()));
    let (mut codes, mut scales) = (vec![0; 192], vec![0.0; 3]);
    int8::quantize(&weights, 64, &mut codes, &mut scales).unwrap();
    assert!(scales[1].is_nan() && scales[0] > 0.0);
}

#[test]
fn ggml_decodes_as_the_reference_bit_for_bit() {
    let fixture = Fixture::open(GGML);
    for ggml in GgmlType::ALL {
        let expected = fixture.f32(&format!("{ggml}.values"));
        let mut found = vec![f32::NAN; expected.len()];
        ggml::decode(ggml, fixture.bytes(&format!("{ggml}.bytes")), &mut found).unwrap();
        let bits = |values: &[f32]| -> Vec<_> { values.iter().map(|x| (x.is_nan(), x.to_bits())).collect() };
        let quiet = |mut bits: Vec<(bool, u32)>| {
            bits.iter_mut().filter(|x| x.0).for_each(|x| x.1 = 0);
            bits
        };
        assert_same(ggml.name(), &quiet(bits(&found)), &quiet(bits(&expected)));
    }
}

#[test]
fn ggml_encodes_as_the_reference_byte_for_byte() {
    let fixture = Fixture::open(GGML);
    let weights = fixture.f32("weight");
    for ggml in GgmlType::WRITABLE {
        let mut found = vec![0xaa; ggml.bytes(weights.len() as u64).unwrap() as usize];
        ggml::encode(ggml, &weights, &mut found).unwrap();
        assert_same(ggml.name(), &found, &fixture.bytes(&format!("{ggml}.bytes"))[..found.len()]);
    }
}

#[test]
fn ggml_types_are_named_in_refusals() {
    for ggml in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(ggml.id()).unwrap(), ggml);
        assert_eq!(ggml.name().to_lowercase().parse::<GgmlType>().unwrap(), ggml);
    }
    let supported = "supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K";
    let message = GgmlType::from_id(17).unwrap_err().to_string();
    assert_eq!(message, format!("GGML tensor type IQ2_XS is not supported; {supported}"));
    let message = GgmlType::from_id(4_000_000_000).unwrap_err().to_string();
    assert_eq!(message, format!("GGML tensor type number 4000000000 is not supported; {supported}"));
    let message = ggml::encode(GgmlType::Q5_K, &[0.0; 256], &mut [0; 176]).unwrap_err().to_string();
    assert!(message.ends_with("supported: F32, F16, BF16, Q8_0, Q4_0, Q4_K"), "{message}");
    assert_eq!(GgmlType::Q4_K.bytes(512), Some(288));
    assert_eq!(GgmlType::Q4_K.bytes(500), None);
    assert_eq!(GgmlType::F32.bytes(u64::MAX / 2), None);
}

#[test]
fn wrong_lengths_are_errors() {
    let weights = [1.0; 128];
    let mut out = [0.0; 128];
    assert!(nf4::quantize(&weights, &mut [0; 63], &mut [0.0; 2]).is_err());
    assert!(nf4::quantize(&weights, &mut [0; 64], &mut [0.0; 3]).is_err());
    assert!(nf4::dequantize(&[0; 65], &[0.0; 2], &mut out).is_err());
    assert!(fp4::dequantize(&[0; 64], &[0.0; 1], &mut out).is_err());
    assert!(int4::quantize(&weights, &mut [0; 64], &mut [0.0; 1]).is_err());
    assert!(int8::quantize(&weights, 0, &mut [0; 128], &mut [0.0; 128]).is_err());
    assert!(int8::quantize(&weights, 50, &mut [0; 128], &mut [0.0; 3]).is_err());
    assert!(int8::dequantize(&[0; 127], 64, &[0.0; 2], &mut out).is_err());
    assert!(float16::decode_f16(&[0; 255], &mut out).is_err());
    assert!(float16::encode_bf16(&weights, &mut [0; 257]).is_err());
    assert!(Nf4 { len: 64, codes: vec![0; 32], absmax: Absmax::F32(vec![]) }.dequantize().is_err());
    for ggml in GgmlType::ALL {
        let (len, bytes) = (ggml.block_len(), ggml.block_bytes());
        assert!(ggml::decode(ggml, &vec![0; bytes - 1], &mut vec![0.0; len]).is_err(), "{ggml}");
        assert!(ggml::decode(ggml, &vec![0; bytes * 2], &mut vec![0.0; len]).is_err(), "{ggml}");
        assert!(len == 1 || ggml::decode(ggml, &vec![0; bytes], &mut vec![0.0; len + 1]).is_err(), "{ggml}");
    }
}

#[test]
fn f16_refuses_what_it_cannot_hold() {
    let mut bytes = [0; 4];
    float16::encode_f16(&[65504.0, f32::NEG_INFINITY], &mut bytes).unwrap();
    assert_eq!(bytes, [0xff, 0x7b, 0x00, 0xfc]);
    let message = float16::encode_f16(&[1.0, -70000.0], &mut bytes).unwrap_err().to_string();
    assert!(message.contains("-70000"), "{message}");
}

#[test]
fn weight_format_names_and_bytes() {
    for format in WeightFormat::ALL {
        assert_eq!(format.to_string().parse::<WeightFormat>().unwrap(), format);
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(serde_json::from_str::<WeightFormat>(&json).unwrap(), format);
    }
    let error = "q4".parse::<WeightFormat>().unwrap_err();
    assert!(matches!(error, Error::Option { .. }));
    let names = "nf4, nf4-no-double-quant, fp4, int4, int8, f16, bf16, f32";
    assert_eq!(error.to_string(), format!("weights = q4: expected one of {names}"));

    // Bits a weight, as the module's table says.
    let bits = |format: WeightFormat| format.bytes_for(4096, 4096).total() as f64 * 8.0 / (4096.0 * 4096.0);
    let expected = [4.127, 4.5, 4.5, 4.5, 8.008, 16.0, 16.0, 32.0];
    for (format, expected) in WeightFormat::ALL.into_iter().zip(expected) {
        assert!((bits(format) - expected).abs() < 5e-4, "{format}: {}", bits(format));
    }
    // What the encoders fill, to the next word.
    let double = Nf4::quantize(&[1.0; 576 * 576], true);
    let Absmax::Double(absmax) = &double.absmax else { panic!() };
    let scales = absmax.codes.len() + 4 * absmax.absmax.len() + 4;
    let expected = WeightBytes { codes: double.codes.len() as u64, scales: scales as u64 };
    assert_eq!(WeightFormat::Nf4 { double_quant: true }.bytes_for(576, 576), expected);
    assert_eq!(WeightFormat::F16.bytes_for(3, 3).total(), 20);
    assert_eq!(WeightFormat::F32.bytes_for(usize::MAX, usize::MAX).codes, u64::MAX);
}

fn any_weights() -> impl Strategy<Value = Vec<f32>> {
    let size = prop_oneof![Just(0.0f32), Just(1e-38), Just(1e-42), 1e-6f32..1e6];
    (size, prop::collection::vec(-1.0f32..1.0, 0..400)).prop_map(|(size, w)| w.iter().map(|w| w * size).collect())
}

proptest! {
    #[test]
    fn nf4_loses_at_most_half_a_gap(weights in any_weights(), double_quant: bool) {
        let quantized = Nf4::quantize(&weights, double_quant);
        let decoded = quantized.dequantize().unwrap();
        if !double_quant {
            for (block, decoded) in weights.chunks(64).zip(decoded.chunks(64)) {
                let absmax = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                for (w, d) in block.iter().zip(decoded) {
                    // The widest gap, -1 to -0.696, halved, and roundings; an absmax below 1e-38 is not scaled up.
                    prop_assert!((w - d).abs() <= 0.1520 * absmax + 1e-38, "{w} -> {d}, absmax {absmax}");
                }
            }
        }
    }

    #[test]
    fn nf4_decoded_weights_have_the_same_codes(weights in prop::collection::vec(-3.0f32..3.0, 1..300)) {
        let mut quantized = Nf4::quantize(&weights, false);
        // A block's largest weight may decode to -absmax or absmax only, so its absmax is kept too.
        let again = Nf4::quantize(&quantized.dequantize().unwrap(), false);
        prop_assert_eq!(&quantized.codes, &again.codes);
        quantized.len = again.len;
        prop_assert_eq!(quantized, again);
    }

    #[test]
    fn double_quantization_is_within_a_map_step(values in prop::collection::vec(0.0f32..5.0, 1..1000)) {
        let quantized = DoubleQuant::quantize(&values);
        let decoded = quantized.dequantize().unwrap();
        for (i, (value, decoded)) in values.iter().zip(&decoded).enumerate() {
            // The map's widest gap, 0.0141, halved; the table's half step; roundings of values up to 5.
            let bound = (0.00705 + 8e-6) * quantized.absmax[i / double_quant::BLOCK] + 2e-6;
            prop_assert!((value - decoded).abs() <= bound, "{value} -> {decoded}");
        }
    }

    #[test]
    fn int8_and_int4_are_within_half_a_step(weights in any_weights()) {
        let mut out = vec![0.0; weights.len()];
        let (mut codes, mut scales) = (vec![0; weights.len()], vec![0.0; usize::from(!weights.is_empty())]);
        int8::quantize(&weights, weights.len(), &mut codes, &mut scales).unwrap();
        int8::dequantize(&codes, weights.len(), &scales, &mut out).unwrap();
        let absmax = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        // Half a step, a rounding, and the granularity of subnormal scales.
        let bound = |steps: f32| absmax * (0.5 / steps + 1e-6) + 1e-42;
        prop_assert!(weights.iter().zip(&out).all(|(w, d)| (w - d).abs() <= bound(127.0)));
        prop_assert!(codes.iter().all(|&code| code != i8::MIN));

        let (mut packed, mut scales) = (vec![0; int4::code_bytes(weights.len())], vec![0.0; int4::blocks(weights.len())]);
        int4::quantize(&weights, &mut packed, &mut scales).unwrap();
        int4::dequantize(&packed, &scales, &mut out).unwrap();
        prop_assert!(weights.iter().zip(&out).all(|(w, d)| (w - d).abs() <= bound(7.0)));
    }

    #[test]
    fn int8_decoded_weights_have_the_same_codes(weights in prop::collection::vec(-3.0f32..3.0, 1..300)) {
        let cols = weights.len();
        let (mut codes, mut scales, mut out) = (vec![0; cols], vec![0.0], vec![0.0; cols]);
        int8::quantize(&weights, cols, &mut codes, &mut scales).unwrap();
        int8::dequantize(&codes, cols, &scales, &mut out).unwrap();
        let mut again = vec![0; cols];
        int8::quantize(&out, cols, &mut again, &mut scales).unwrap();
        prop_assert_eq!(codes, again);
    }

    #[test]
    fn any_bytes_decode(which in 0..GgmlType::ALL.len(), bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let ggml = GgmlType::ALL[which];
        let blocks = bytes.len() / ggml.block_bytes();
        let mut out = vec![0.0; blocks * ggml.block_len()];
        prop_assert!(ggml::decode(ggml, &bytes[..blocks * ggml.block_bytes()], &mut out).is_ok());
    }

    #[test]
    fn any_weights_encode(which in 0..GgmlType::WRITABLE.len(), bits in prop::collection::vec(any::<u32>(), 256)) {
        let ggml = GgmlType::WRITABLE[which];
        let weights: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let _ = ggml::encode(ggml, &weights, &mut vec![0; ggml.bytes(256).unwrap() as usize]);
    }

    #[test]
    fn q8_0_q4_0_and_q4_k_round_trip(weights in prop::collection::vec(-2.0f32..2.0, 256)) {
        // Half a step of each format over a range of 4, and the rounding of its f16 scales.
        for (ggml, bound) in [(GgmlType::Q8_0, 0.0095), (GgmlType::Q4_0, 0.26), (GgmlType::Q4_K, 0.26)] {
            let mut bytes = vec![0; ggml.block_bytes() * 256 / ggml.block_len()];
            ggml::encode(ggml, &weights, &mut bytes).unwrap();
            let mut out = vec![0.0; 256];
            ggml::decode(ggml, &bytes, &mut out).unwrap();
            let worst = weights.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            prop_assert!(worst <= bound, "{ggml}: {worst}");
        }
    }
}
