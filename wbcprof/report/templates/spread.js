// Names spread from groups and single cells to all: the twin of wbcprof/analysis/labelling.py, where
// the method is told. `places` are n rows of d numbers, `given` the type of each cell or -1,
// `single` 1 where a cell was named by itself or left out. All in 64 bits.
const WEIGHT = 5, ROUNDS = 3, SHRINKAGE = 0.1, AMONG = 10;

// Lower triangle of the factor of a positive definite matrix (Cholesky), in its place.
function factorise(a, d) {
  for (let j = 0; j < d; j++) {
    for (let i = j; i < d; i++) {
      let sum = a[i * d + j];
      for (let m = 0; m < j; m++) sum -= a[i * d + m] * a[j * d + m];
      a[i * d + j] = i === j ? Math.sqrt(sum) : sum / a[j * d + j];
    }
  }
}

function solve(factor, d, right) {
  const x = Float64Array.from(right);
  for (let i = 0; i < d; i++) {
    for (let m = 0; m < i; m++) x[i] -= factor[i * d + m] * x[m];
    x[i] /= factor[i * d + i];
  }
  for (let i = d - 1; i >= 0; i--) {
    for (let m = i + 1; m < d; m++) x[i] -= factor[m * d + i] * x[m];
    x[i] /= factor[i * d + i];
  }
  return x;
}

// Sum of weighed products of places, lower triangle.
function squareOf(places, n, d, weight) {
  const square = new Float64Array(d * d);
  for (let i = 0; i < n; i++) {
    if (!weight[i]) continue;
    const row = i * d;
    for (let a = 0; a < d; a++) {
      const value = weight[i] * places[row + a], at = a * d;
      for (let b = 0; b <= a; b++) square[at + b] += value * places[row + b];
    }
  }
  return square;
}

// Probabilities of k types, n rows of k.
function spread(places, n, d, given, single, k) {
  const weight = Float64Array.from(given, (type, i) => (type < 0 ? 0 : single[i] ? WEIGHT : 1));
  const square = squareOf(places, n, d, weight);
  const belongs = new Float64Array(n * k);
  given.forEach((type, i) => { if (type >= 0) belongs[i * k + type] = 1; });
  for (let round = 0; round <= ROUNDS; round++) {
    const ofType = new Float64Array(k), middles = new Float64Array(k * d);
    for (let i = 0; i < n; i++) {
      if (!weight[i]) continue;
      for (let t = 0; t < k; t++) {
        const share = weight[i] * belongs[i * k + t];
        if (!share) continue;
        ofType[t] += share;
        for (let a = 0; a < d; a++) middles[t * d + a] += share * places[i * d + a];
      }
    }
    let total = 0, trace = 0;
    for (let t = 0; t < k; t++) {
      ofType[t] = Math.max(ofType[t], 1e-9);
      total += ofType[t];
      for (let a = 0; a < d; a++) middles[t * d + a] /= ofType[t];
    }
    const covariance = new Float64Array(d * d);
    for (let a = 0; a < d; a++) {
      for (let b = 0; b <= a; b++) {
        let sum = square[a * d + b];
        for (let t = 0; t < k; t++) sum -= ofType[t] * middles[t * d + a] * middles[t * d + b];
        covariance[a * d + b] = sum / total;
      }
      trace += covariance[a * d + a];
    }
    for (let a = 0; a < d; a++) {
      for (let b = 0; b <= a; b++) covariance[a * d + b] *= 1 - SHRINKAGE;
      covariance[a * d + a] += (SHRINKAGE * trace) / d;
    }
    factorise(covariance, d);
    const slopes = [], offsets = [];
    for (let t = 0; t < k; t++) {
      const middle = middles.subarray(t * d, (t + 1) * d), slope = solve(covariance, d, middle);
      slopes.push(slope);
      offsets.push(Math.log(ofType[t]) - 0.5 * middle.reduce((sum, value, a) => sum + value * slope[a], 0));
    }
    for (let i = 0; i < n; i++) {
      if (single[i] && given[i] >= 0) continue;
      let most = -Infinity, sum = 0;
      for (let t = 0; t < k; t++) {
        const slope = slopes[t];
        let log = offsets[t];
        for (let a = 0; a < d; a++) log += slope[a] * places[i * d + a];
        belongs[i * k + t] = log;
        most = Math.max(most, log);
      }
      for (let t = 0; t < k; t++) sum += belongs[i * k + t] = Math.exp(belongs[i * k + t] - most);
      for (let t = 0; t < k; t++) belongs[i * k + t] /= sum;
    }
  }
  return belongs;
}

// Cells to be named next: unsure ones, each unlike those before it.
function askNext(belongs, places, n, d, single, k, many) {
  const unsure = new Float64Array(n).fill(-1);
  for (let i = 0; i < n; i++) {
    if (single[i]) continue;
    unsure[i] = 0;
    for (let t = 0; t < k; t++) unsure[i] -= belongs[i * k + t] * Math.log(Math.max(belongs[i * k + t], 1e-12));
  }
  const rows = [...unsure.keys()].sort((i, j) => unsure[j] - unsure[i] || i - j).slice(0, AMONG * many).filter((i) => !single[i]);
  if (!rows.length) return rows;
  const distance = (i, j) => {
    let sum = 0;
    for (let a = 0; a < d; a++) sum += (places[i * d + a] - places[j * d + a]) ** 2;
    return Math.sqrt(sum);
  };
  const least = unsure[rows.at(-1)], sorted = rows.map((i) => distance(i, rows[0])).sort((x, y) => x - y), half = sorted.length >> 1;
  const typical = Math.max(sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2, 1e-12);
  const apart = rows.map((i) => distance(i, rows[0])), chosen = [rows[0]];
  while (chosen.length < Math.min(many, rows.length)) {
    let best = -1, most = -1;
    rows.forEach((i, r) => {
      const value = chosen.includes(i) ? -1 : ((unsure[i] - least + 1e-6) * apart[r]) / (apart[r] + 0.5 * typical);
      if (value > most) [best, most] = [i, value];
    });
    chosen.push(best);
    rows.forEach((i, r) => { apart[r] = Math.min(apart[r], distance(i, best)); });
  }
  return chosen;
}

// Two halves of some cells, by k-means from the two that lie furthest apart; 1 for the second.
function halve(places, d, rows) {
  const squared = (i, middle) => {
    let sum = 0;
    for (let a = 0; a < d; a++) sum += (places[i * d + a] - middle[a]) ** 2;
    return sum;
  };
  const place = (i) => places.slice(i * d, (i + 1) * d);
  const mean = (some) => Float64Array.from({ length: d }, (_, a) => some.reduce((sum, i) => sum + places[i * d + a], 0) / some.length);
  const furthest = (middle) => rows.reduce((best, i) => (squared(i, middle) > squared(best, middle) ? i : best), rows[0]);
  const first = furthest(mean(rows));
  let middles = [place(first), place(furthest(place(first)))], half = [];
  for (let round = 0; round < 30; round++) {
    half = rows.map((i) => Number(squared(i, middles[1]) < squared(i, middles[0])));
    const parts = [0, 1].map((side) => rows.filter((_, r) => half[r] === side));
    if (!parts[0].length || !parts[1].length) break;
    middles = parts.map(mean);
  }
  return half;
}
